"""`ipt mix`: shares counted in tokens, even at every point, exact, deterministic, and what it refuses."""

import json
import random
import re
import shutil
import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from hypothesis import given
from hypothesis import strategies as st
from mixing_parts import contents, forked, small_tokenizer, texts, write

import ipt_datasets
from ipt_datasets import MixSource, mix
from ipt_datasets.cli import main
from ipt_datasets.corpus.mixing.documents import Document, shuffled
from ipt_datasets.corpus.mixing.layouts import SKIP_REASONS
from ipt_datasets.corpus.mixing.schedule import TokenSchedule
from ipt_datasets.corpus.mixing.sources import read_sources
from ipt_datasets.corpus.tokenizing import DocumentTokenizer
from ipt_datasets.errors import InputError, OutputError, RecipeError
from ipt_datasets.schema import MIXTURE_FEATURES

DEMO = str(Path(ipt_datasets.__file__).parent / "data" / "demo.jsonl")
TOKENIZER = tempfile.mkdtemp(prefix="ipt-tokenizer-")
"""A small byte-level BPE with BOS and EOS, which loads in no time."""


@pytest.fixture(scope="module", autouse=True)
def tokenizer_folder():
    small_tokenizer(TOKENIZER)
    yield
    shutil.rmtree(TOKENIZER)


@pytest.fixture
def web(tmp_path):
    return write(tmp_path / "web.jsonl", [{"text": text, "id": f"w{n}"} for n, text in enumerate(texts(300))])


@pytest.fixture
def orca(tmp_path):
    rows = [
        {"id": n, "system_prompt": "You obey.", "question": text, "response": f"Yes {n}."}
        for n, text in enumerate(texts(50, 20, seed=1))
    ]
    return write(tmp_path / "orca.jsonl", rows)


def read(made):
    return load_dataset(str(made.path), split="train")


weights = st.lists(st.fractions(Fraction(1, 50), 50, max_denominator=50), min_size=1, max_size=5)


@given(weights, st.randoms(use_true_random=False))
def test_at_every_point_each_source_is_within_one_document_of_its_share(weights, draws):
    schedule = TokenSchedule(weights)
    longest = 0
    lengths = [draws.randint(1, 100) for _ in weights]
    for _ in range(60):
        chosen = schedule.choose(lengths)
        longest = max(longest, *lengths)
        schedule.take(chosen, lengths[chosen])
        lengths[chosen] = draws.randint(1, 100) if draws.random() < 0.9 else draws.randint(1, 5000)
        for source, weight in enumerate(weights):
            share = weight / sum(weights)
            assert schedule.share(source) == share
            assert abs(schedule.tokens[source] - share * sum(schedule.tokens)) <= longest


@given(weights, st.integers(1, 20_000), st.randoms(use_true_random=False))
def test_a_plan_is_met_within_half_a_document(weights, total, draws):
    schedule = TokenSchedule(weights, total)
    longest = [0] * len(weights)
    lengths = [draws.randint(1, 100) for _ in weights]
    while (chosen := schedule.choose(lengths)) is not None:
        schedule.take(chosen, lengths[chosen])
        longest = [max(pair) for pair in zip(longest, lengths, strict=True)]
        lengths[chosen] = draws.randint(1, 100)
    for source, weight in enumerate(weights):
        plan = weight / sum(weights) * total
        assert abs(schedule.tokens[source] - plan) <= Fraction(max(longest[source], lengths[source]), 2)
        assert abs(schedule.planned(source) - plan) <= Fraction(1, 2)


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 20), st.integers())
def test_a_shuffle_keeps_every_document_once_and_within_its_window(sizes, size, seed):
    documents = [Document("x" * length, str(number), 0) for number, length in enumerate(sizes)]
    out = [int(document.row) for document in shuffled(documents, size, random.Random(seed))]
    assert sorted(out) == list(range(len(sizes)))
    assert all(number <= place + size for place, number in enumerate(out))
    assert out == [int(document.row) for document in shuffled(documents, size, random.Random(seed))]


def test_the_mixture(web, orca, tmp_path):
    made = mix([f"web={web}:3", f"orca={orca}:1"], tmp_path / "out", TOKENIZER, tokens=4_000, progress=False)
    assert {entry.name for entry in made.path.iterdir()} == {"README.md", "recipe.json", "audit.json", "text", ".lock"}
    rows = read(made)
    assert rows.features == MIXTURE_FEATURES
    tokenizer = DocumentTokenizer.load(TOKENIZER).encode
    ids = tokenizer(rows["text"][:])
    assert list(map(len, ids)) == rows["n_tokens"][:]  # the ids that a trainer gets, BOS and EOS among them
    taken = Counter()
    source = {row["id"]: row["text"] for row in load_dataset("json", data_files=web, split="train")}
    asked = {str(row["id"]): row for row in load_dataset("json", data_files=orca, split="train")}
    for row in rows:
        taken[row["source"]] += row["n_tokens"]
        share = taken["web"] - 0.75 * taken.total()
        assert abs(share) <= max(rows["n_tokens"][:])  # evenly interleaved, from the first document on
        if row["source"] == "web":
            assert row["text"] == source[row["row"]]
        else:
            assert row["text"] == f"{asked[row['row']]['question']} {asked[row['row']]['response']}"
    assert abs(taken["web"] - 3000) <= 60
    assert abs(taken["orca"] - 1000) <= 60
    assert len({(row["source"], row["row"]) for row in rows}) == len(rows)
    for audited in made.audit.sources:
        assert audited.tokens == taken[audited.name]
        assert audited.planned_tokens == {"web": 3000, "orca": 1000}[audited.name]
        assert audited.documents == rows["source"][:].count(audited.name)
    card, audit = (made.path / "README.md").read_text(), json.loads((made.path / "audit.json").read_text())
    assert made.audit.table() in card
    assert audit["sources"][1]["read_as"] == "instructions: {question} {response}"
    assert audit["tokens"] == taken.total() == made.audit.tokens


def test_real_abstracts_are_counted_exactly(tmp_path, orca):
    made = mix([f"a={DEMO}:1", f"o={orca}:1"], tmp_path / "out", "smol", progress=False)
    a, o = made.audit.sources
    assert made.audit.ended_by in ("a", "o")
    longest = max(read(made)["n_tokens"][:])
    assert abs(a.tokens - o.tokens) <= 2 * longest
    assert abs(a.tokens - a.planned_tokens) <= longest
    assert a.planned_tokens + o.planned_tokens == pytest.approx(made.audit.tokens, abs=1)


def test_bos_counts_only_where_there_is_one(mistral_tokenizer, smol_tokenizer, tmp_path):
    folder = tmp_path / "no_bos"
    smol_tokenizer.tokenizer.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": None}))
    text = "A text <s> with </s> <|im_end|> in it."
    for name, around in ((mistral_tokenizer.tokenizer.name_or_path, 2), (str(folder), 1)):
        tokenizer = DocumentTokenizer.load(name)
        [ids] = tokenizer.encode([text])
        assert tokenizer.count([text]) == [len(ids)]
        inner = ids[around - 1 : -1]
        assert ids[-1] == tokenizer.eos_id not in inner
        assert len(inner) == len(ids) - around
    [ids] = DocumentTokenizer.load(mistral_tokenizer.tokenizer.name_or_path).encode([text])
    assert ids == [1, *mistral_tokenizer.encode(text), 2]
    assert 1 not in ids[1:]


def test_literal_tokens(web, tmp_path):
    plain = mix([f"web={web}:1"], tmp_path / "plain", TOKENIZER, progress=False)
    literal = mix([f"web={web}:1"], tmp_path / "literal", TOKENIZER, literal_tokens=True, progress=False)
    assert read(literal)["text"][:] == [f"<|im_start|>{text}<|im_end|>" for text in read(plain)["text"]]
    assert read(literal)["n_tokens"][:] == read(plain)["n_tokens"][:]


LAYOUTS = [
    ({"text": "a"}, "a"),
    ({"system_prompt": "s", "question": "q", "response": "r"}, "q r"),
    ({"instruction": "i", "response": "r", "category": "c"}, "i r"),
    ({"instruction": "i", "input": "", "output": "o"}, "i o"),
    ({"instruction": "i", "input": "n", "output": "o"}, "i\nn o"),
    ({"instruction": "i", "context": "c", "response": "r"}, "i\nc r"),
    ({"prompt": "p", "completion": "c"}, "p c"),
    ({"prompt": [{"role": "user", "content": "u"}], "completion": [{"role": "assistant", "content": "a"}]}, "u a"),
    ({"inputs": "i", "targets": "t", "task": "x"}, "i t"),
    (
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "v"},
                {"role": "assistant", "content": "b"},
            ]
        },
        "u a\n\nv b",
    ),
    ({"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}], "id": "7"}, "u a"),
]


@pytest.mark.parametrize(("row", "text"), LAYOUTS, ids=lambda value: value if isinstance(value, str) else None)
def test_layouts(row, text, tmp_path):
    made = mix([f"x={write(tmp_path / 'x.jsonl', [row])}:1"], tmp_path / "out", TOKENIZER, progress=False)
    assert read(made)["text"][:] == [text]


def test_columns_by_name(tmp_path):
    file = write(tmp_path / "x.jsonl", [{"ask": "q", "reply": "r", "text": "t", "n": 1}])
    for columns, text in ((("ask", "reply"), "q r"), (("reply",), "r"), (None, "t")):
        source = MixSource("x", file, 1, columns=columns)
        assert read(mix([source], tmp_path / f"{columns}", TOKENIZER, progress=False))["text"][:] == [text]
    for columns, said in ((("n",), "holds int64"), (("no", "reply"), "has no column 'no'"), (("a", "b", "c"), "a:b:c")):
        with pytest.raises(InputError, match=said):
            mix([MixSource("x", file, 1, columns=columns)], tmp_path / "bad", TOKENIZER, progress=False)


def test_rows_without_a_document_are_counted_not_hidden(tmp_path):
    good = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    rows = [
        {"messages": messages}
        for messages in (good, [], good[:1], good[::-1], [*good, {"role": "tool", "content": "t"}], None)
    ]
    rows += [{"messages": [{"role": "user", "content": " "}, good[1]]}, {"messages": good}]
    made = mix([f"x={write(tmp_path / 'x.jsonl', rows)}:1"], tmp_path / "out", TOKENIZER, progress=False)
    assert read(made)["text"][:] == ["u a"] * 2
    assert made.audit.sources[0].skipped == {"empty": 1, "no_turns": 5}
    assert set(made.audit.sources[0].skipped) <= set(SKIP_REASONS)
    assert "1 empty, 5 no_turns" in (made.path / "README.md").read_text()


@pytest.mark.parametrize("buffer", [0, 7, 10_000])
def test_the_end_of_a_source(web, orca, buffer, tmp_path):
    sources = [MixSource("web", web), MixSource("orca", orca)]
    settings = {"tokenizer": TOKENIZER, "shuffle_buffer": buffer, "progress": False}
    stopped = mix(sources, tmp_path / "stop", **settings).audit
    assert stopped.ended_by == "orca"
    assert stopped.sources[1].documents == 50
    assert abs(stopped.sources[0].tokens - stopped.sources[1].tokens) < 100

    sources[1] = MixSource("orca", orca, on_end="repeat")
    repeated = mix(sources, tmp_path / "repeat", **settings)
    assert repeated.audit.ended_by == "web"
    assert repeated.audit.sources[0].documents == 300
    assert repeated.audit.sources[1].repeats == max(read(repeated)["repeat"][:]) >= 4
    passes = [
        [row["row"] for row in read(repeated) if row["source"] == "orca" and row["repeat"] == number]
        for number in range(3)
    ]
    assert all(sorted(one) == sorted(map(str, range(50))) for one in passes)
    assert (passes[0] == passes[1]) == (buffer == 0)  # another order each time

    sources[1] = MixSource("orca", orca, on_end="repeat", max_repeats=2)
    limited = mix(sources, tmp_path / "limited", **settings).audit
    assert (limited.ended_by, limited.sources[1].repeats, limited.sources[1].documents) == ("orca", 2, 150)

    sources[1] = MixSource("orca", orca, on_end="fail")
    with pytest.raises(InputError, match=r"'orca' ended after .* on_end 'fail'"):
        mix(sources, tmp_path / "fail", rows_per_shard=10, **settings)
    assert not list((tmp_path / "fail").rglob("*.parquet"))
    mix(sources, tmp_path / "fail", tokens=1000, **settings)  # enough for so few


def test_a_mixture_that_stops_before_the_plan_says_so(web, orca, tmp_path):
    made = mix([f"web={web}:1", f"orca={orca}:1"], tmp_path / "out", TOKENIZER, tokens=10_000, progress=False)
    assert [source.planned_tokens for source in made.audit.sources] == [5000, 5000]
    assert made.audit.tokens < 5000
    assert f"`orca` had no document left: {made.audit.tokens:,} of 10,000 tokens" in made.audit.remarks()[1]


def test_the_seed_decides_and_nothing_else(web, orca, tmp_path):
    sources = [f"web={web}:1", f"orca={orca}:0.3"]
    one = mix(sources, tmp_path / "one", TOKENIZER, rows_per_shard=40, progress=False)
    two = mix(sources, tmp_path / "two", TOKENIZER, rows_per_shard=40, progress=False)
    assert contents(one.path) == contents(two.path)
    other = mix(sources, tmp_path / "three", TOKENIZER, seed=1, rows_per_shard=40, progress=False)
    assert read(other)["text"][:] != read(one)["text"][:]
    assert sorted(row["row"] for row in read(other) if row["source"] == "orca") == sorted(map(str, range(50)))


def test_several_files_are_taken_in_a_seeded_order_and_rows_can_be_found(tmp_path):
    for number in range(4):
        Dataset.from_dict({"text": [f"{number} {at}" for at in range(30)]}).to_parquet(tmp_path / f"{number}.parquet")
    rows = read(mix([f"x={tmp_path}/*.parquet:1"], tmp_path / "out", TOKENIZER, shuffle_buffer=5, progress=False))
    assert [row["row"].replace(":", " ") for row in rows] == rows["text"][:]
    assert sorted(rows["text"][:]) == sorted(f"{number} {at}" for number in range(4) for at in range(30))
    files = list(dict.fromkeys(text[0] for text in rows["text"]))
    assert files != sorted(files)


def test_after_any_kill_the_folder_equals_an_undisturbed_one(web, orca, tmp_path):
    rows = [{"text": text if n % 7 else ""} for n, text in enumerate(texts(100, seed=3))]
    sources = [
        MixSource("web", web, 2),
        MixSource("orca", orca, on_end="repeat"),
        MixSource("holes", write(tmp_path / "h.jsonl", rows), 1, on_end="repeat"),
    ]
    settings = {"tokenizer": TOKENIZER, "rows_per_shard": 100, "shuffle_buffer": 20, "progress": False, "resume": True}
    whole = mix(sources, tmp_path / "whole", **settings)
    broken = tmp_path / "broken"
    kills = 0
    while forked(lambda: mix(sources, broken, **settings), kill_at=kills % 9):
        kills += 1
        assert kills < 50
    assert kills >= 7
    assert contents(broken) == contents(whole.path)
    assert mix(sources, broken, **settings).audit == whole.audit  # a finished one is verified


def test_resume_refuses_what_has_changed(web, orca, tmp_path):
    sources, out = [f"web={web}:1", f"orca={orca}:1"], tmp_path / "out"
    settings = {"tokenizer": TOKENIZER, "rows_per_shard": 20, "progress": False}
    assert forked(lambda: mix(sources, out, **settings), kill_at=5)
    assert list(out.rglob("*.parquet"))
    with pytest.raises(OutputError, match="already holds an unfinished run"):
        mix(sources, out, **settings)
    with pytest.raises(OutputError, match=r"these differ: seed \(was 0, is 1\)"):
        mix(sources, out, seed=1, resume=True, **settings)
    Path(web).write_text(Path(web).read_text().replace("harbour", "haven"))
    with pytest.raises(OutputError, match="'web' is not what it was"):
        mix(sources, out, resume=True, **settings)
    made = mix(sources, out, overwrite=True, **settings)
    next(iter(out.rglob("*.parquet"))).unlink()
    with pytest.raises(OutputError, match="its audit says"):
        mix(sources, made.path, resume=True, **settings)


def test_recipes_are_shorthands():
    augmented, instructions = read_sources(["augmented=a:b", "instructions=hf://x/y"], "domain-adaptive")
    assert (augmented.source, augmented.weight, augmented.on_end) == ("a:b", 1, "stop")
    assert (instructions.source, instructions.weight, instructions.on_end) == ("hf://x/y", 1, "repeat")
    corpus, tuning, extra = read_sources(["corpus=c:2", "tuning=t", "more=m:1/3"], "from-scratch")
    assert (corpus.weight, tuning.weight, extra.weight) == (2, Fraction(8, 1000), Fraction(1, 3))
    assert (tuning.on_end, tuning.max_repeats) == ("repeat", 3)
    with pytest.raises(RecipeError, match="needs a source named 'instructions'"):
        read_sources(["augmented=a"], "domain-adaptive")


def test_the_command(web, orca, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--tokenizer", TOKENIZER, "--on-end", "orca=repeat", "--max-repeats", "1", "--columns", "web=text"]
    assert main(["mix", str(out), f"web={web}:1", f"orca={orca}:1", *flags]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^\| orca +\| +1 \| +[\d,]+ \| +[\d,]+ \| +\d+\.\d{3}% \| +100 \| +1 \| +0 \|", said, re.MULTILINE
    )
    assert "The mixture ends where `orca` had no document left." in said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["web=WEB:0"], "weight '0' of source 'web': expected a number above 0"),
        (["web=WEB:-1"], "weight '-1'"),
        (["web=WEB:nan"], "weight 'nan'"),
        (["web=WEB"], "expected NAME=SOURCE:WEIGHT"),
        (["WEB:1"], "expected NAME=SOURCE:WEIGHT"),
        (["a b=WEB:1"], "source name 'a b': expected letters"),
        (["web=:1"], "source 'web' names nothing to read"),
        (["web=WEB:1", "web=ORCA:1"], "source name 'web' is given twice"),
        (["web=WEB.not:1"], "no such file or folder"),
        (["web=WEB:1", "--tokenizer", "./nowhere"], "tokenizer './nowhere': there is no such folder"),
        (["web=WEB:1", "--tokenizer", "no/such"], "tokenizer 'no/such' cannot be loaded"),
        (["web=WEB:1", "--columns", "web=body"], "has no column 'body'; its columns: text (string), id (string)"),
        (["web=WEB:1", "--columns", "body"], "expected NAME=TEXT or NAME=QUESTION:RESPONSE"),
        (["web=WEB:1", "--on-end", "wob=stop"], "there is no source 'wob'; the sources: web"),
        (["web=WEB:1", "--on-end", "never"], "expected one of stop, repeat, fail"),
        (["web=WEB:1", "--on-end", "repeat"], "say where the mixture ends, with --tokens N"),
        (["web=WEB:1", "--on-end", "repeat", "--max-repeats", "many"], "--max-repeats 'many'"),
        (["web=WEB:1", "--max-repeats", "web=2"], "needs on_end='repeat'"),
        (["web=WEB:1", "--tokens", "0"], "tokens=0: expected"),
        (["web=WEB:1000", "orca=ORCA:1", "--tokens", "1000"], "1 of 1,000 tokens are planned for source 'orca'"),
        (["empty=EMPTY:1"], "holds no rows"),
        (["blank=BLANK:1"], "holds no document (2 empty)"),
        (["odd=ODD:1"], "neither texts nor instructions by its columns: title (string), year (int64)"),
        (["both=BOTH:1"], "can be read as texts: text or as instructions: {prompt} {completion}"),
    ],
)
def test_bad_input_is_one_line(args, said, web, orca, tmp_path, capsys):
    files = {
        "WEB": web,
        "ORCA": orca,
        "EMPTY": write(tmp_path / "empty.jsonl", []),
        "BLANK": write(tmp_path / "blank.jsonl", [{"text": ""}, {"text": None}]),
        "ODD": write(tmp_path / "odd.jsonl", [{"title": "t", "year": 1}]),
        "BOTH": write(tmp_path / "both.jsonl", [{"text": "t", "prompt": "p", "completion": "c"}]),
    }
    args = [re.sub("|".join(files), lambda found: files[found[0]], arg) for arg in args]
    assert main(["mix", str(tmp_path / "out"), "--tokenizer", TOKENIZER, *args]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("ipt: ")
    assert said in lines[0]
    assert not list((tmp_path / "out").rglob("*.parquet"))
