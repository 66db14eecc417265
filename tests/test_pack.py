"""`ipt pack`: no token lost or doubled, the bounds of the documents kept, and a trainer that takes the rows."""

import json
import re
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st
from mixing_parts import contents, forked, small_tokenizer, texts, write

import ipt_datasets
from ipt_datasets import mix, pack
from ipt_datasets.cli import main
from ipt_datasets.corpus import packing
from ipt_datasets.corpus.folder import OutputFolder
from ipt_datasets.corpus.packing import NO_LOSS, columns_of, cut_blocks
from ipt_datasets.corpus.tokenizing import DocumentTokenizer
from ipt_datasets.errors import OutputError
from ipt_datasets.schema import PACKED_FEATURES

DEMO = str(Path(ipt_datasets.__file__).parent / "data" / "demo.jsonl")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def corpus(tmp_path):
    rows = [{"text": text, "id": n} for n, text in enumerate(texts(120))]
    rows[5]["text"], rows[6]["text"], rows[9]["text"] = None, "  ", " ".join(texts(30, seed=2))
    return write(tmp_path / "corpus.jsonl", rows)


def read(made):
    return load_dataset(str(made.path), split="train")


@given(
    st.lists(st.lists(st.integers(3, 99), max_size=40), min_size=1, max_size=20),
    st.integers(2, 20),
    st.integers(1, 3),
    st.data(),
)
def test_rows_are_the_documents_one_behind_the_other(bodies, length, rows, data):
    documents = [[1, *body, 2] for body in bodies]
    begun = data.draw(st.integers(0, len(documents[0]) - 1))
    flat = [id_ for document in documents for id_ in document][begun:]
    with patch.object(packing, "TOKENS_AT_ONCE", data.draw(st.sampled_from([1, 2 * length, 2**20]))):
        blocks = [columns_of(ids, starts, length) for ids, starts in cut_blocks(documents, length * rows, begun)]
    assert all(len(block["input_ids"]) == rows for block in blocks[:-1])
    made = [
        {name: column[at].as_py() for name, column in block.items()}
        for block in blocks
        for at in range(len(block["continues"]))
    ]
    assert [id_ for row in made for id_ in row["input_ids"]] == flat
    assert {len(row["input_ids"]) for row in made[:-1]} <= {length}
    for row in made:
        ids, at = row["input_ids"], 0
        assert row["continues"] == (ids[0] != 1)
        assert sum(row["seq_lengths"]) == len(ids) == len(row["labels"])
        for number, size in enumerate(row["seq_lengths"]):
            assert row["position_ids"][at : at + size] == list(range(size))
            assert row["labels"][at : at + size] == [NO_LOSS, *ids[at + 1 : at + size]]
            assert (ids[at] == 1) == (number > 0 or not row["continues"])
            assert 1 not in ids[at + 1 : at + size]
            at += size


@pytest.mark.parametrize("rest", ["drop", "keep"])
def test_the_packed_set(corpus, tokenizer, rest, tmp_path):
    made = pack(corpus, tmp_path / "out", tokenizer, length=64, rest=rest, rows_per_shard=10, progress=False)
    assert {entry.name for entry in made.path.iterdir()} == {
        "README.md",
        "recipe.json",
        "audit.json",
        "packed",
        ".lock",
    }
    rows, counts = read(made), made.counts
    assert rows.features == PACKED_FEATURES
    whole = [text for text in load_dataset("json", data_files=corpus, split="train")["text"] if text and text.strip()]
    flat = [id_ for ids in DocumentTokenizer.load(tokenizer).encode(whole) for id_ in ids]
    packed = [id_ for ids in rows["input_ids"] for id_ in ids]
    assert counts.rest_tokens == len(flat) % 64 > 0
    assert packed == (flat if rest == "keep" else flat[: -counts.rest_tokens])
    assert (counts.documents, counts.tokens, counts.rows) == (118, len(flat), len(rows))
    assert counts.skipped == {"empty": 2}
    assert packed.count(0) == sum(len(row["seq_lengths"]) - row["continues"] for row in rows)
    card = (made.path / "README.md").read_text()
    assert f"| documents | 118 |\n|---|--:|\n| tokens, BOS and EOS of each document included | {len(flat):,} |" in card
    assert f"({rest}) | {counts.rest_tokens} |" in card


def test_a_mixture_is_packed_to_the_tokens_that_it_counted(corpus, tokenizer, tmp_path):
    mixed = mix([f"a={corpus}:1", f"b={DEMO}:2"], tmp_path / "mixed", tokenizer, progress=False)
    packed = pack(str(mixed.path), tmp_path / "packed", tokenizer, length=128, progress=False)
    assert packed.counts.tokens == mixed.audit.tokens
    assert packed.counts.documents == mixed.audit.documents


def test_literal_tokens_are_taken_off_or_remarked(corpus, tokenizer, tmp_path):
    settings = {"length": 32, "rest": "keep", "progress": False}
    mixed = mix([f"a={corpus}:1"], tmp_path / "plain", tokenizer, progress=False)
    literal = mix([f"a={corpus}:1"], tmp_path / "literal", tokenizer, literal_tokens=True, progress=False)
    plain = pack(str(mixed.path), tmp_path / "one", tokenizer, **settings)
    stripped = pack(str(literal.path), tmp_path / "two", tokenizer, literal_tokens=True, **settings)
    assert read(stripped)["input_ids"][:] == read(plain)["input_ids"][:]
    as_text = pack(str(literal.path), tmp_path / "three", tokenizer, **settings)
    assert as_text.counts.literal == 118
    assert "118 texts begin with BOS or end with EOS as a string" in as_text.counts.remarks()[-1]
    first = read(as_text)[0]["input_ids"]
    assert first[0] == 0  # BOS once; the string is text
    assert first[1] != 0


@pytest.mark.parametrize("rest", ["drop", "keep"])
def test_after_any_kill_the_folder_equals_an_undisturbed_one(corpus, tokenizer, rest, tmp_path):
    settings = {"length": 50, "rows_per_shard": 11, "rest": rest, "progress": False, "resume": True}
    whole = pack(corpus, tmp_path / "whole", tokenizer, **settings)
    kills = 0
    while forked(lambda: pack(corpus, tmp_path / "broken", tokenizer, **settings), kill_at=kills % 9):
        kills += 1
        assert kills < 50
    assert kills > 5
    assert contents(tmp_path / "broken") == contents(whole.path)
    assert pack(corpus, tmp_path / "broken", tokenizer, **settings).counts == whole.counts


def test_a_document_over_many_shards_is_resumed_in_its_middle(tokenizer, tmp_path):
    rows = [{"text": "A first one."}, {"text": " ".join(texts(60, seed=4))}, {"text": "A last one."}]
    corpus = write(tmp_path / "long.jsonl", rows)
    settings = {"length": 16, "rows_per_shard": 4, "progress": False, "resume": True}
    whole = pack(corpus, tmp_path / "whole", tokenizer, **settings)
    broken = tmp_path / "broken"
    assert forked(lambda: pack(corpus, broken, tokenizer, **settings), kill_at=21)
    assert len(OutputFolder(broken).shards("packed")) == 10
    pack(corpus, broken, tokenizer, **settings)
    assert contents(broken) == contents(whole.path)


def test_resume_refuses_what_has_changed(corpus, tokenizer, tmp_path):
    settings = {"length": 16, "rows_per_shard": 20, "progress": False}
    out = tmp_path / "out"
    assert forked(lambda: pack(corpus, out, tokenizer, **settings), kill_at=7)
    with pytest.raises(OutputError, match="already holds an unfinished run"):
        pack(corpus, out, tokenizer, **settings)
    with pytest.raises(OutputError, match=r"these differ: length \(was 16, is 17\)"):
        pack(corpus, out, tokenizer, resume=True, **{**settings, "length": 17})
    Path(corpus).write_text("".join(Path(corpus).read_text().splitlines(keepends=True)[:9]))
    with pytest.raises(OutputError, match="is not what it was"):
        pack(corpus, out, tokenizer, resume=True, **settings)
    made = pack(corpus, out, tokenizer, overwrite=True, **settings)
    OutputFolder(out).drop_shards("packed", 0)
    with pytest.raises(OutputError, match="its audit says"):
        pack(corpus, made.path, tokenizer, resume=True, **settings)


def test_a_shard_is_as_long_as_asked(corpus, tokenizer, tmp_path):
    pack(corpus, tmp_path / "out", tokenizer, length=64, rows_per_shard=10, progress=False)
    sizes = [pq.read_metadata(shard).num_rows for shard in OutputFolder(tmp_path / "out").shards("packed")]
    assert set(sizes[:-1]) == {10}
    assert 0 < sizes[-1] <= 10


def tiny_llama(vocab_size):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, max_position_embeddings=128, **sizes))


def test_documents_in_a_row_do_not_attend_to_each_other(corpus, tokenizer, tmp_path):
    import torch

    made = pack(corpus, tmp_path / "out", tokenizer, length=64, progress=False)
    rows = read(made).with_format("torch")[:2]
    model = tiny_llama(512).eval()
    with torch.no_grad():
        # As the Trainer calls it: transformers looks for packed rows only where nothing is cached.
        together = model(input_ids=rows["input_ids"], position_ids=rows["position_ids"], use_cache=False).logits
        for row in range(2):
            at = 0
            for size in rows["seq_lengths"][row].tolist():
                alone = model(input_ids=rows["input_ids"][row : row + 1, at : at + size]).logits[0]
                np.testing.assert_allclose(together[row, at : at + size], alone, atol=1e-5)
                at += size
            assert at == 64


def test_the_trainer_takes_the_packed_set_as_it_is(corpus, tokenizer, tmp_path):
    from transformers import Trainer, TrainingArguments, default_data_collator

    made = pack(corpus, tmp_path / "out", tokenizer, length=64, progress=False)
    arguments = TrainingArguments(
        tmp_path / "trained", max_steps=1, per_device_train_batch_size=4, report_to=[], save_strategy="no", use_cpu=True
    )
    model = tiny_llama(512)
    before = model.lm_head.weight.detach().clone()
    trainer = Trainer(model=model, args=arguments, train_dataset=read(made), data_collator=default_data_collator)
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"input_ids", "position_ids", "labels"}
    assert batch["input_ids"].shape == (4, 64)
    assert np.isfinite(trainer.train().training_loss)
    assert not (before == model.lm_head.weight).all()


def test_the_command(corpus, tokenizer, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["pack", corpus, str(out), "--tokenizer", tokenizer, "--length", "64"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^118 documents -> [\d,]+ tokens -> \d+ rows of 64$", said, re.MULTILINE)
    assert "tokens behind the last whole row were dropped" in said
    assert "Rows of the source without a document: 2 empty." in said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["CORPUS", "--length", "1"], "length=1: expected a whole number of at least 2"),
        (["CORPUS", "--rows-per-shard", "0"], "rows_per_shard=0"),
        (["CORPUS", "--tokenizer", "./nowhere"], "tokenizer './nowhere': there is no such folder"),
        (["CORPUS", "--text-column", "body"], "has no column 'body'"),
        (["CORPUS.not"], "no such file or folder"),
        (["BLANK"], "holds no documents (2 empty)"),
    ],
)
def test_bad_input_is_one_line(args, said, corpus, tokenizer, tmp_path, capsys):
    blank = write(tmp_path / "blank.jsonl", [{"text": ""}, {"text": None}])
    given = [arg.replace("CORPUS", corpus).replace("BLANK", blank) for arg in args]
    assert main(["pack", given[0], str(tmp_path / "out"), "--tokenizer", tokenizer, *given[1:]]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]  # a progress bar may stand before it
    assert line.startswith("ipt: ")
    assert said in line
    assert not (tmp_path / "out" / "recipe.json").exists()


def test_the_recipe_names_the_tokenizer_by_its_contents(corpus, tokenizer, tmp_path):
    made = pack(corpus, tmp_path / "out", tokenizer, length=64, progress=False)
    recipe = json.loads((made.path / "recipe.json").read_text())
    assert recipe["tokenizer"] == {**DocumentTokenizer.load(tokenizer).identity, "revision": None}
