"""The released layouts become our rows, whatever their lines hold."""

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from datasets import Dataset, IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_datasets import InstructionAugmentedCorpora, SynthesizerCollection, render_prompt, templatize_batch
from ipt_datasets.cli import main
from ipt_datasets.corpus.read_collection import read_collection
from ipt_datasets.corpus.templatize import templatize
from ipt_datasets.errors import InputError
from ipt_datasets.schema import REJECT_REASONS, STATUSES, SYNTHESIS_FEATURES, TASK_FEATURES, Pair
from ipt_datasets.synthesis.chains import Stretch, chain_id
from ipt_datasets.synthesis.markup import PAPER
from ipt_datasets.templating.templatizer import Templatizer

RELEASED = Path(__file__).parent / "data" / "released"
CORPORA, COLLECTION = RELEASED / "corpora", RELEASED / "collection"
NOTE = "Harbour note {0}. Berth {0} takes ships of up to {1} metres draught. Its crane lifts {2} tonnes."
NOTES = [NOTE.format(n, n + 3, 10 * (n + 1)) for n in range(8)]
GOOD = {"context": "A good text.", "QA_list": [{"Q": "Which?", "A": "a good one"}], "inherit_from_prev": False}


def streamed(data_files, **options) -> list[dict]:
    return list(InstructionAugmentedCorpora(data_files, **options).as_streaming_dataset(split="train"))


def mapped(builder) -> Dataset:
    builder.download_and_prepare()
    return builder.as_dataset(split="train")


def written(path: Path, *lines) -> Path:
    path.write_bytes(b"".join(line if isinstance(line, bytes) else f"{json.dumps(line)}\n".encode() for line in lines))
    return path


def free(n: int) -> Pair:
    return Pair(f"What draught does berth {n} take?", f"Up to {n + 3} metres")


def choice(n: int) -> Pair:
    options = f"{10 * (n + 1)} tonnes", f"{10 * (n + 2)} tonnes", "nothing"
    return Pair(f"How much does the crane of berth {n} lift?", options[0], options)


def thought(n: int) -> Pair:
    reasons = f"Berth {n} takes up to {n + 3} metres, and {n + 2} is less."
    return Pair(f"Can a ship of {n + 2} metres moor at berth {n}?", "yes", (), reasons)


def chain_of(*texts: str) -> str:
    return chain_id([Stretch(0, text, 0, len(text), []) for text in texts])


def test_every_line_becomes_the_rows_that_synthesis_would_have_written():
    rows = streamed(str(CORPORA))
    expected = [
        (0, [free(0), choice(0)], (0, 1), 0),
        (1, [thought(1)], (0, 1), 1),
        (2, [], (2,), 0),
        (3, [free(3)], (3,), 0),
        (4, [free(4)], (4, 5, 6), 0),
        (5, [free(5), thought(5)], (4, 5, 6), 1),
        (6, [choice(6)], (4, 5, 6), 2),
        (7, [free(7)], (7,), 0),
    ]
    for row, (n, pairs, chain, position) in zip(rows, expected, strict=True):
        shot = {
            "chain": chain_of(*(NOTES[at] for at in chain)),
            "position": position,
            "start": 0,
            "end": len(NOTES[n]),
            "follows": position > 0,
            "completion": "",
            "finish_reason": "",
            "prompt_tokens": 0,
            "completion_tokens": 0,
        }
        assert row == {
            "text": NOTES[n],
            "pairs": [pair.to_row(0) for pair in pairs],
            "shots": [shot],
            "rejected": [],
            "status": "ok" if pairs else "no_pairs",
        }


def test_map_style_equals_streaming_with_the_exact_types():
    builder = InstructionAugmentedCorpora(str(CORPORA))
    dataset, stream = mapped(builder), builder.as_streaming_dataset(split="train")
    assert isinstance(stream, IterableDataset)
    assert dataset.to_list() == list(stream)
    for features in (dataset.features, stream.features):
        assert {name: features[name] for name in SYNTHESIS_FEATURES} == dict(SYNTHESIS_FEATURES)
        assert list(features) == ["text", *SYNTHESIS_FEATURES]


def test_several_processes_make_the_same_rows(tmp_path):
    builder = InstructionAugmentedCorpora(str(CORPORA), cache_dir=str(tmp_path))
    builder.download_and_prepare(num_proc=2)
    assert builder.as_dataset(split="train").to_list() == streamed(str(CORPORA))


def test_a_stream_is_split_by_files_and_goes_on_where_it_stopped():
    stream = InstructionAugmentedCorpora(str(CORPORA)).as_streaming_dataset(split="train")
    assert stream.num_shards == 3
    assert [row["text"] for at in range(3) for row in stream.shard(3, at)] == NOTES
    rows = iter(stream)
    before = [next(rows)["text"] for _ in range(5)]
    state = stream.state_dict()
    stream.load_state_dict(state)
    assert before + [row["text"] for row in stream] == NOTES


@pytest.mark.parametrize(
    ("data_files", "texts"),
    [
        (f"{CORPORA}/part-0", NOTES[:7]),
        (f"{CORPORA}/part-*/shard/*.jsonl", NOTES),
        (f"{CORPORA}/part-0/shard", NOTES[:7]),
        ([f"{CORPORA}/part-1", f"{CORPORA}/part-0/shard/00001.jsonl"], [NOTES[7], *NOTES[4:7]]),
        ({"train": f"{CORPORA}/part-1/shard/00000.jsonl"}, NOTES[7:]),
        (f"file://{CORPORA}/part-1", NOTES[7:]),
    ],
)
def test_files_folders_and_globs_are_found(data_files, texts):
    assert [row["text"] for row in streamed(data_files)] == texts


def test_a_config_is_a_folder_of_the_corpus():
    assert [row["text"] for row in streamed(str(CORPORA), config_name="part-1")] == NOTES[7:]


def test_a_folder_with_brackets_in_its_name_is_found(tmp_path, monkeypatch):
    (tmp_path / "part[1]").mkdir()
    written(tmp_path / "part[1]" / "a.jsonl", [GOOD])
    monkeypatch.chdir(tmp_path)
    assert len(streamed("part[1]")) == len(streamed("part[1]/a.jsonl")) == 1


@pytest.mark.parametrize(
    ("data_files", "options", "said"),
    [
        (f"{CORPORA}/part-9", {}, "part-9"),
        (f"{CORPORA}/part-9/*.jsonl", {}, "there is no file"),
        (str(CORPORA), {"config_name": "part-9"}, "part-9"),
        (f"{CORPORA}/part-1/shard/00000.jsonl", {"config_name": "part-1"}, "is not a folder"),
        (str(CORPORA), {"revision": "main"}, "is not a Hub id"),
        ([], {}, "there is no file"),
        ("", {}, "cannot be found"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(data_files, options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        InstructionAugmentedCorpora(data_files, **options)


def test_hub_ids_stand_for_their_shards():
    from ipt_datasets.corpus.builders import _pattern

    assert _pattern("me/corpus", None, None) == "hf://datasets/me/corpus/**/*.jsonl*"
    assert _pattern("me/corpus", "part-0", "refs/pr/1") == "hf://datasets/me/corpus@refs%2Fpr%2F1/part-0/**/*.jsonl*"
    assert _pattern("hf://datasets/me/corpus/part-0", None, None) == "hf://datasets/me/corpus/part-0/**/*.jsonl*"
    shards = "hf://datasets/me/corpus/part-0/shard/*.jsonl"
    assert _pattern(shards, None, None) == shards


@pytest.mark.parametrize("style", ["stream", "map"])
@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_compressed_shards_are_read(tmp_path, suffix, pack, style):
    content = (CORPORA / "part-0/shard/00001.jsonl").read_bytes()
    (tmp_path / f"00000.jsonl{suffix}").write_bytes(pack(content))
    builder = InstructionAugmentedCorpora(str(tmp_path))
    rows = builder.as_streaming_dataset(split="train") if style == "stream" else mapped(builder)
    assert [row["text"] for row in rows] == NOTES[4:7]


def test_a_damaged_archive_is_an_error_that_names_it(tmp_path):
    content = gzip.compress((CORPORA / "part-0/shard/00001.jsonl").read_bytes())
    (tmp_path / "cut.jsonl.gz").write_bytes(content[:-30])
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz cannot be read behind line"):
        streamed(str(tmp_path))


def test_broken_lines_are_left_out_counted_and_named(tmp_path, caplog):
    path = written(
        tmp_path / "mixed.jsonl",
        b"\xef\xbb\xbf[]\n",
        [GOOD],
        b"\n",
        b'[{"context": "caf\xe9"}]\n',
        GOOD,
        "just a string",
        [GOOD, 3, {"QA_list": []}],
        [],
        [GOOD],
        [[GOOD, GOOD], GOOD],
        b"[" * 100_000 + b"\n",
        b'[{"context": "cut of',
    )
    assert [row["text"] for row in streamed(str(path))] == ["A good text."] * 7
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert re.fullmatch(r".*mixed\.jsonl: 6 .* cannot be read: line 4: not UTF-8 \(byte 0xe9\)", record.getMessage())


def test_windows_line_ends_and_a_last_line_without_an_end_are_read(tmp_path):
    line = json.dumps([GOOD]).encode()
    assert len(streamed(str(written(tmp_path / "a.jsonl", line + b"\r\n", line)))) == 2


def test_lines_longer_than_a_read_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("ipt_datasets.corpus.builders.BYTES_A_READ", 7)
    assert [row["text"] for row in streamed(str(CORPORA))] == NOTES


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([b"text,label\n", b"a,b\n"], "not JSON"),
        (["[\n".encode("utf-16"), b"\n"], "not UTF-8"),
        ([{"text": "another layout"}] * 30, "expected an object with a string as its 'context'"),
        ([b'[{"context": "the only li'], "not JSON"),
    ],
)
@pytest.mark.parametrize("style", ["stream", "map"])
def test_another_kind_of_file_is_an_error_with_its_first_line(tmp_path, lines, said, style):
    path = written(tmp_path / "other.jsonl", *lines)
    builder = InstructionAugmentedCorpora(str(path))
    with pytest.raises(InputError, match=rf"other\.jsonl, line 1: .*{said}.*; expected JSON lines, each a list"):
        list(builder.as_streaming_dataset(split="train")) if style == "stream" else mapped(builder)


def test_a_file_is_read_to_its_end_before_it_counts_as_another_kind(tmp_path):
    late = written(tmp_path / "late.jsonl", *[b"noise\n"] * 9, [GOOD])
    assert len(streamed(str(late))) == 1
    never = written(tmp_path / "never.jsonl", *[b"noise\n"] * 10, [GOOD])
    with pytest.raises(InputError, match="line 1"):
        streamed(str(never))


def test_an_empty_shard_holds_nothing(tmp_path):
    written(tmp_path / "a.jsonl")
    written(tmp_path / "b.jsonl", [GOOD])
    assert len(streamed(str(tmp_path))) == len(mapped(InstructionAugmentedCorpora(str(tmp_path)))) == 1


def pairs_and_reasons(qa_list) -> tuple[list[tuple[str, str]], list[str]]:
    [row], problems = read_collection([{"context": "A text.", "QA_list": qa_list}])
    assert not problems
    assert row["status"] == ("ok" if row["pairs"] else "no_pairs")
    pairs = [(pair["instruction"], pair["response"]) for pair in row["pairs"]]
    return pairs, [piece["reason"] for piece in row["rejected"]]


@pytest.mark.parametrize(
    ("qa_list", "pairs", "reasons"),
    [
        (None, [], []),
        ([], [], []),
        ([{"Q": " q ", "A": "a\n"}], [("q", "a")], []),
        (
            [{"q": "q", "a": "a"}, {"question": "r", "Answer": "b"}, ["s", "c"]],
            [("q", "a"), ("r", "b"), ("s", "c")],
            [],
        ),
        ({"Q": "q", "A": 42}, [("q", "42")], []),
        ([{"Q": "q", "A": "a"}, {"Q": "Q ", "A": "b"}], [("q", "a")], ["duplicate"]),
        ([{"Q": "", "A": "a"}, {"Q": "q", "A": None}, {}], [], ["empty_question", "empty_answer", "empty_question"]),
        ([None, 3, "q", ["q"], {"Q": ["q"], "A": "a"}, {"Q": True, "A": "a"}], [], ["unreadable"] * 6),
        ([{"Q": "q\ud800", "A": "a"}], [], ["unreadable"]),
    ],
)
def test_pairs_are_read_in_any_form_and_what_is_none_is_kept_with_its_reason(qa_list, pairs, reasons):
    assert pairs_and_reasons(qa_list) == (pairs, reasons)


def test_a_text_that_cannot_be_used_has_a_status_and_ends_the_chain():
    def follower(context):
        return {**GOOD, "context": context, "inherit_from_prev": True}

    line = [
        GOOD,
        follower("b"),
        follower(None),
        follower("c"),
        follower(" "),
        follower("\udc00"),
        follower("d"),
        5,
        follower("e"),
    ]
    rows, problems = read_collection(line)
    assert [(row["text"], row["status"]) for row in rows] == [
        ("A good text.", "ok"),
        ("b", "ok"),
        (None, "empty"),
        ("c", "ok"),
        (" ", "empty"),
        (None, "not_unicode"),
        ("d", "ok"),
        ("e", "ok"),
    ]
    places = [[(shot["position"], shot["follows"]) for shot in row["shots"]] for row in rows]
    assert places == [[(0, False)], [(1, True)], [], [(0, False)], [], [], [(0, False)], [(0, False)]]
    assert len(problems) == 4  # three lists of pairs without a text, and the 5


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["Q", "A", "context", "QA_list", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {"context": st.text(max_size=12) | json_values},
    optional={
        "QA_list": st.lists(st.fixed_dictionaries({"Q": st.text(max_size=9), "A": json_values})) | json_values,
        "inherit_from_prev": st.booleans() | json_values,
    },
)


def contexts_of(line) -> list[str]:
    """Find the contexts of entries at any depth of lists, in order."""
    if isinstance(line, list):
        return [context for value in line for context in contexts_of(value)]
    return [line["context"]] if isinstance(line, dict) and isinstance(line.get("context"), str) else []


@settings(max_examples=100)
@given(st.lists(json_values | entries | st.lists(entries, max_size=3), max_size=5) | json_values)
def test_no_line_raises_and_each_context_ends_in_one_row(line):
    line = json.loads(json.dumps(line))
    rows, _ = read_collection(line)
    texts = [context if context.isspace() or _is_unicode(context) else None for context in contexts_of(line)]
    nulls = [row for row in rows if row["text"] is None and row["status"] == "empty"]
    assert [row["text"] for row in rows if row not in nulls] == texts
    assert len(pa.Table.from_pylist(rows, schema=InstructionAugmentedCorpora.columns.arrow_schema)) == len(rows)
    for row in rows:
        assert row["status"] in STATUSES
        assert all(piece["reason"] in REJECT_REASONS for piece in row["rejected"])
        assert all(pair["instruction"] and pair["response"] for pair in row["pairs"])
        assert (row["status"] == "ok") == bool(row["pairs"])
    columns = {name: [row[name] for row in rows] for name in ("text", "pairs", "shots")}
    assert sum(Templatizer()(columns)["n_pairs"]) == sum(len(row["pairs"]) for row in rows)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def test_the_reference_prompts_come_back_from_what_it_would_have_released(golden):
    """The reference keeps Q and A as strings; from our rows its prompts are rendered again, byte for byte."""
    for scenario in golden["prompts"]:
        for first, (chain, follows) in enumerate(zip(scenario["chains"], scenario["follows"], strict=True)):
            line = [
                {
                    "context": scenario["texts"][n],
                    "QA_list": [
                        {"Q": question, "A": answer}
                        for question, answer in re.findall(
                            r"(?s)<QUE> (.*?) <ANS> (.*?) </END>", scenario["completions"][n]
                        )
                    ],
                    "inherit_from_prev": inherits,
                }
                for n, inherits in zip(chain, follows, strict=True)
            ]
            rows, problems = read_collection(line)
            assert not problems
            assert [row["shots"][0]["follows"] for row in rows] == follows
            shots = [(row["text"], row["pairs"]) for row in rows]
            assert render_prompt(shots[:-1], shots[-1][0]) == scenario["prompts_by_round"][-1][first]


def test_templatize_gives_what_the_templatizer_gives_on_the_rows(tmp_path):
    rows = mapped(InstructionAugmentedCorpora(str(CORPORA)))
    expected = Templatizer(seed=1)(rows[:])
    made = templatize(str(CORPORA), tmp_path / "out", released=True, rows_per_shard=2, progress=False)
    texts = Dataset.from_parquet(str(tmp_path / "out/text/*.parquet"), cache_dir=str(tmp_path))
    assert texts["text"][:] == list(expected["text"])
    assert texts["n_pairs"][:] == list(expected["n_pairs"]) == [3, 0, 1, 4, 1]
    assert texts["rows"][:] == [["0", "1"], ["2"], ["3"], ["4", "5", "6"], ["7"]]
    assert made.pairs == sum(map(len, rows["pairs"])) == 9
    assert made.texts == 5
    assert json.loads((tmp_path / "out/recipe.json").read_text())["input"]["released"] is True


def test_rows_of_the_builder_go_through_map():
    stream = InstructionAugmentedCorpora(str(CORPORA)).as_streaming_dataset(split="train")
    texts = list(stream.map(templatize_batch, batched=True, remove_columns=stream.column_names))
    assert [text["n_pairs"] for text in texts] == [3, 0, 1, 4, 1]


def test_duplicate_lines_are_kept_as_often_as_they_came(tmp_path):
    written(tmp_path / "a.jsonl", *[[GOOD, {**GOOD, "context": "And another.", "inherit_from_prev": True}]] * 3)
    made = templatize(str(tmp_path), tmp_path / "out", released=True, progress=False)
    assert (made.texts, made.pairs) == (3, 6)


def test_the_command_reads_the_released_layout(tmp_path, capsys):
    assert main(["templatize", str(CORPORA), str(tmp_path / "out"), "--released", "--seed", "3"]) == 0
    assert "5 training texts" in capsys.readouterr().out
    part = ["--released", "--config-name", "part-1"]
    assert main(["templatize", str(CORPORA), str(tmp_path / "part"), *part]) == 0
    assert "1 training texts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (b"no JSON", [], "a.jsonl, line 1: not JSON"),
        (b"", [], "holds no rows"),
        (b"[]\n", ["--split", "test"], "has no split 'test'"),
        (b"[]\n", ["--config-name", "part-7"], "part-7"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong_and_writes_nothing(tmp_path, capsys, content, arguments, said):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(content)
    assert main(["templatize", str(tmp_path / "in"), str(tmp_path / "out"), "--released", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_known_hub_id_needs_no_flag(tmp_path, capsys):
    assert (
        main(["templatize", "instruction-pretrain/medicine-instruction-augmented-corpora", str(tmp_path / "out")]) == 1
    )
    assert (
        "ipt: instruction-pretrain/medicine-instruction-augmented-corpora cannot be opened" in capsys.readouterr().err
    )


def test_the_collection_becomes_task_rows():
    builder = SynthesizerCollection(str(COLLECTION))
    dataset = mapped(builder)
    assert dataset.features == TASK_FEATURES
    assert dataset.to_list() == list(builder.as_streaming_dataset(split="train"))
    assert dataset["task_set"][:] == ["ferries", "harbours", "harbours"]
    ferry = dataset[0]
    assert ferry["pairs"] == [Pair("When does the first ferry leave?", "At six").to_row(0)]
    assert ferry["prompt"] == " <CON> The ferry to Sula leaves at six and at nine. </CON>\n\n"
    assert ferry["completion"] == "<QUE> When does the first ferry leave? <ANS> At six </END>"
    assert [Pair.read(pair) for pair in dataset[1]["pairs"]] == [free(0), choice(0)]
    assert [Pair.read(pair) for pair in dataset[2]["pairs"]] == [thought(1)]
    assert PAPER.parse(dataset[1]["completion"]).pairs == (free(0), choice(0))


def test_a_config_of_the_collection_is_one_set():
    rows = list(SynthesizerCollection(str(COLLECTION), config_name="harbours").as_streaming_dataset(split="train"))
    assert [row["text"] for row in rows] == NOTES[:2]


def test_what_the_collection_cannot_use_is_counted(tmp_path, caplog):
    entry = {"context": "A text.", "QA_list": [{"Q": "q", "A": "a"}, {"Q": "Q", "A": "b"}, {"Q": "", "A": "a"}, 5]}
    path = written(
        tmp_path / "set.jsonl",
        entry,
        {**entry, "QA_list": None},
        {**entry, "QA_list": [{"Q": "q\nOptions:\n- a\n- b", "A": "c"}]},
        {**entry, "context": None},
        {**entry, "context": "\ud800"},
        3,
    )
    [row] = SynthesizerCollection(str(path), dataset_name="x").as_streaming_dataset(split="train")
    assert (row["task_set"], len(row["pairs"])) == ("", 1)
    [record] = caplog.records
    assert "set.jsonl: 9 of" in record.getMessage()


@settings(max_examples=60)
@given(json_values | entries | st.lists(entries, max_size=3))
def test_no_line_of_the_collection_raises(line):
    builder = SynthesizerCollection(str(COLLECTION))
    rows, _ = builder.rows_of(json.loads(json.dumps(line)))
    assert all(row["pairs"] and row.keys() == TASK_FEATURES.keys() for row in rows)
    assert len(rows) <= len(contexts_of(line))
