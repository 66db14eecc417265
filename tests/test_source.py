import bz2
import csv
import gzip
import io
import json
import lzma
import random
import socket
from importlib import resources
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datasets import Dataset, Features, IterableDataset, Json, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipt_datasets.corpus.source import check_text_column, iter_rows, known_rows, open_source
from ipt_datasets.errors import InputError

HARD_TEXTS = {
    "plain": "One sentence. Another one,\twith a tab and \"quotes\" and 'more'.",
    "line ends": "first\nsecond\r\nthird\n\nfifth ",
    "unicode line ends": "a\u2028b\u2029c\x0bd\x0ce\x85f",
    "nul": "before\x00after",
    "controls": "esc\x1b[0m bell\x07 del\x7f",
    "right to left": "שלום עולם ‏مرحبا بالعالم‏",
    "cjk": "漢字かな交じり文。한국어 텍스트. 中文文本。",
    "astral": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 👩‍👩‍👧‍👦 🏳️‍🌈",
    "combining": "e\u0301 n\u0303 \u200d\ufeff end",
    "markup": "<CON> x </CON> <QUE> <s></s> <|im_end|> {} {{0}} %s 100% \\n \\u0041",
    "10 MB": "long text, " * (10 * (1 << 20) // 11),
}
ROWS = [{"id": number, "text": text, "title": name} for number, (name, text) in enumerate(HARD_TEXTS.items())]


def json_lines(rows: list, ensure_ascii: bool = True) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=ensure_ascii) + "\n" for row in rows).encode()


def table_text(rows: list, delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(rows: list, schema: pa.Schema | None = None, **options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), out, **options)
    return out.getvalue()


def read(source: Path | str, **options: object) -> list:
    return list(iter_rows(open_source(str(source), **options), str(source)))


def refused(source: Path | str, **options: object) -> str:
    """The one line with which a source is refused, at opening or while it is read."""
    with pytest.raises(InputError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


SMALL = ROWS[:-1]
FILES = {
    "x.jsonl": lambda: json_lines(ROWS),
    "raw.jsonl": lambda: json_lines(ROWS, ensure_ascii=False),
    "x.json": lambda: json.dumps(ROWS).encode(),
    "pretty.json": lambda: json.dumps(SMALL, indent=2).encode(),
    "x.csv": lambda: table_text(ROWS, ","),
    "x.tsv": lambda: table_text(ROWS, "\t"),
    "x.parquet": lambda: parquet(ROWS),
    "x.jsonl.gz": lambda: gzip.compress(json_lines(SMALL), 1),
    "x.csv.bz2": lambda: bz2.compress(table_text(SMALL, ","), 1),
    "x.jsonl.xz": lambda: lzma.compress(json_lines(SMALL), preset=0),
    "x.jsonl.zst": lambda: zstandard.compress(json_lines(SMALL), 1),
    "UPPER.JSONL": lambda: json_lines(SMALL),
    "odd [name] *?.jsonl": lambda: json_lines(SMALL),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_rows_it_holds_to_the_character(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(FILES[name]())
    dataset = open_source(str(path))
    assert isinstance(dataset, IterableDataset)
    assert list(dataset.features) == ["id", "text", "title"]
    assert dataset.features["text"].dtype in ("string", "large_string")
    rows = list(iter_rows(dataset, str(path)))
    assert len(rows) in (len(ROWS), len(SMALL))
    assert rows == ROWS[: len(rows)]


def test_a_text_file_is_a_row_a_line(tmp_path):
    texts = ["one", "", "  spaces kept  ", "שלום", "漢字\x00\u2028", "x" * (1 << 20), "last"]
    (tmp_path / "x.txt").write_text("\n".join(texts), encoding="utf-8", newline="")
    assert read(tmp_path / "x.txt") == [{"text": text} for text in texts]
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
    assert read(tmp_path / "x.txt.gz") == [{"text": text} for text in texts]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(), max_size=30), min_size=1, max_size=5))
def test_json_lines_come_back_or_the_line_with_the_surrogate_is_named(texts, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(json_lines([{"id": str(i), "text": f"text {text}"} for i, text in enumerate(texts)]))
    broken = [number for number, text in enumerate(texts, 1) if any("\ud800" <= c <= "\udfff" for c in text)]
    if broken:
        assert f"{path}, line {broken[0]}: lone surrogate" in refused(path)
    else:
        assert [row["text"] for row in read(path)] == [f"text {text}" for text in texts]


GOOD = [{"id": number, "text": f"text {number}"} for number in range(5)]
LINES = json_lines(GOOD)
BAD_FILES = {
    "latin.jsonl": (LINES + b'{"id": 5, "text": "caf\xe9"}\n', "line 6: not UTF-8 (byte 0xe9 at offset 162)"),
    "utf16.jsonl": (
        '{"text": "x"}\n'.encode("utf-16"),
        "not UTF-8 (byte 0xff at offset 0); it looks like UTF-16",
    ),
    "surrogate.jsonl": (LINES + b'{"id": 5, "text": "a\\ud800b"}\n', "line 6: lone surrogate \\ud800 in column 'text'"),
    "nested.jsonl": (b'{"text": "x", "meta": {"a": ["\\udfff"]}}\n', "line 1: lone surrogate \\udfff in column 'meta'"),
    "array.json": (json.dumps([*GOOD, {"id": 5, "text": "\ud800"}]).encode(), "item 6: lone surrogate \\ud800"),
    "cut.jsonl": (LINES + b'{"id": 5, "text": "abc', "line 6: the file ends inside this line"),
    "broken.jsonl": (LINES + b'{"id": 5, "text: 3}\n' + LINES, "line 6: not JSON"),
    "list.jsonl": (LINES + b"[1, 2]\n", "line 6: holds [1, 2], expected a JSON object"),
    "twice.jsonl": (b'{"text": "a"}\n{"text": "a", "text": "b"}\n', "twice.jsonl"),
    "cut.json": (json.dumps(GOOD).encode()[:-20], "line 1: not JSON"),
    "latin.csv": (b"id,text\n1,hello\n2,caf\xe9\n", "line 3: not UTF-8 (byte 0xe9 at offset 21)"),
    "fields.csv": (b'id,text\n1,"two\nlines"\n2,x\n3,a,b,c\n', "line 5: has 4 fields, the header 2"),
    "quote.csv": (b'id,text\n1,hello\n2,"x\n3,a\n4,b\n', "line 3: a quoted field begins here and never ends"),
    "types.csv": (
        b"id,text\n" + b"".join(b"%d,t\n" % number for number in range(10_050)) + b"abc,t\n",
        "line 10052: column 'id' holds \"abc\", expected int64",
    ),
    "latin.txt": (b"one\ntwo\ncaf\xe9\n", "line 3: not UTF-8 (byte 0xe9 at offset 11)"),
    "cut.jsonl.gz": (gzip.compress(LINES * 500)[:-20], "cannot be read to its end"),
    "not.jsonl.gz": (LINES, "cannot be read to its end: Not a gzipped file"),
    "cut.parquet": (parquet(GOOD)[:-10], "not a whole Parquet file"),
    "not.parquet": (b"this is a text", "not a whole Parquet file"),
    "empty.jsonl": (b"", "empty.jsonl holds no rows"),
    "empty.csv": (b"", "empty.csv holds no rows"),
    "header.csv": (b"id,text\n", "header.csv holds no rows"),
    "empty.txt": (b"", "empty.txt holds no rows"),
    "rows.parquet": (parquet([], schema=pa.schema({"text": pa.string()})), "rows.parquet holds no rows"),
    "x.docx": (b"x", "of a kind that is not read here; expected .parquet .jsonl"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_cannot_be_read_is_one_line_with_file_and_place(name, tmp_path):
    content, expected = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert str(tmp_path / name) in message
    assert expected in message


def test_rows_before_a_fault_are_given_and_the_right_file_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl").write_bytes(LINES + b'{"id": 9, "text": "a\\ud800b"}\n')
    for source in (str(tmp_path), f"{tmp_path}/*.jsonl"):
        rows = iter_rows(open_source(source), source)
        assert [next(rows) for _ in GOOD] == GOOD
        with pytest.raises(InputError, match=r"b\.jsonl, line 6: lone surrogate"):
            list(rows)
    assert "b.jsonl, line 6: lone surrogate" in refused(tmp_path, streaming=False)


def test_a_damaged_page_and_bytes_that_are_not_utf8_name_the_parquet_row(tmp_path):
    path = tmp_path / "x.parquet"
    content = bytearray(parquet([{"text": random.randbytes(999).hex()} for _ in range(99)], compression="zstd"))
    content[20_000:20_100] = b"\xff" * 100
    path.write_bytes(content)
    assert f"{path}, row 1 or after: cannot be decoded, the file is damaged" in refused(path)
    bad = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"b", b"\xff"]).buffers())
    pq.write_table(pa.table({"text": bad}), path)
    assert f"{path}, row 3: column 'text' is not valid" in refused(path)


def test_parquet_files_with_other_columns_or_types_are_named(tmp_path):
    pq.write_table(pa.table({"id": [1], "text": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": [1], "body": ["a"]}), tmp_path / "b.parquet")
    assert "b.parquet: has the columns id, body, expected id, text" in refused(tmp_path)
    pq.write_table(pa.table({"id": ["x"], "text": ["a"]}), tmp_path / "b.parquet")
    assert "b.parquet, row 1:" in refused(tmp_path)


def big_lines(path: Path, *last: dict) -> None:
    """More than the 10 MB that the JSON reader takes to settle the types, then other rows."""
    path.write_bytes(json_lines([{"id": i, "text": f"{i} " + "x" * (1 << 20)} for i in range(12)]) + json_lines(last))


def test_a_type_that_changes_far_down_stops_the_reading_and_alters_no_text(tmp_path):
    path = tmp_path / "x.jsonl"
    big_lines(path, {"id": 12, "text": "good"}, {"id": 13, "text": 5})
    for source in (path, tmp_path):
        assert f"{path}, line 14: column 'text' holds 5, expected string" in refused(source)
    big_lines(path, {"id": 12, "text": "good"}, {"id": "x", "text": "good"})
    assert f"{path}, line 14: column 'id' holds \"x\", expected int64" in refused(path, streaming=False)
    big_lines(path, {"id": 12, "text": "good", "extra": 1})
    assert f"{path}, line 13: has a column 'extra'" in refused(path)
    big_lines(path, {"id": 12, "text": "good"}, {"text": None})
    assert [row["text"] and row["text"][:4] for row in read(path)[11:]] == ["11 x", "good", None]


def test_a_column_that_is_null_at_first_may_hold_strings_later(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"text": "x" * (1 << 20), "note": None, "tags": []} for _ in range(12)]
    path.write_bytes(json_lines([*rows, {"text": "end", "note": "here", "tags": ["a"]}]))
    assert read(path)[-1] == {"text": "end", "note": "here", "tags": ["a"]}


def test_columns_beside_the_text_may_mix_types(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"id": 1, "text": '"a" \x00 \u2028 👩‍👧 1.0'}, {"id": "two", "text": "b"}, {"id": None, "text": ""}]
    path.write_bytes(json_lines(rows))
    dataset = open_source(str(path))
    check_text_column(dataset, "text", str(path))
    assert dataset.features["id"] == Json()
    assert list(iter_rows(dataset, str(path))) == rows
    path.write_bytes(json_lines([*rows, {"id": 3, "text": "a\ud800b"}]))
    assert f"{path}, line 4: lone surrogate" in refused(path)


def our_folder(folder: Path) -> Path:
    """A folder as the commands write it."""
    (folder / "text").mkdir(parents=True)
    (folder / "pairs").mkdir()
    for shard in range(2):
        pq.write_table(pa.table({"text": [f"t{shard}0", f"t{shard}1"]}), folder / f"text/train-{shard:05d}.parquet")
    pq.write_table(pa.table({"id": ["a"], "pairs": [["x"]]}), folder / "pairs/train-00000.parquet")
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*.parquet\n"
        f"{'  default: true' if name == 'text' else ''}\n"
        for name in ("text", "pairs")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# A corpus\n")
    return folder


def test_a_folder_of_ours_opens_by_config(tmp_path, monkeypatch):
    folder = our_folder(tmp_path / "out")
    assert [row["text"] for row in read(folder)] == ["t00", "t01", "t10", "t11"]
    assert read(folder, config_name="pairs") == [{"id": "a", "pairs": ["x"]}]
    assert known_rows(open_source(str(folder)), str(folder)) == 4
    assert known_rows(open_source(str(folder), config_name="pairs"), str(folder)) == 1
    monkeypatch.chdir(folder)
    assert len(read("text")) == 4  # also the name of a reader of datasets
    assert len(read("./text/train-00001.parquet")) == 2
    assert "text, pairs; choose one with --config-name" in refused(folder, config_name="other")
    assert f"{folder} has no split 'test'; its splits: train" in refused(folder, split="test")
    assert "is a slice, expected a whole split" in refused(folder, split="train[:1]")
    assert len(read(folder, split="train[:1]", streaming=False)) == 1
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "text/train-00000.parquet")
    for streaming in (True, False):
        assert [row["text"] for row in read(folder, streaming=streaming)] == ["t10", "t11"]
    assert "is a folder here, revision='v1' needs a Hub id" in refused(folder, revision="v1")


def test_splits_and_configs_that_are_not_there_are_listed(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(LINES)
    (tmp_path / "test.jsonl").write_bytes(LINES * 2)
    assert len(read(tmp_path, split="test")) == 10
    assert len(read(tmp_path, split="train+test")) == 15
    assert "no split 'dev'; its splits: train, test; choose one with --split" in refused(tmp_path, split="dev")
    assert "no config 'x'; its configs: default" in refused(tmp_path, config_name="x")
    assert "is a file, it has no config 'x'" in refused(tmp_path / "test.jsonl", config_name="x")
    assert "is a file, it has no revision 'x'" in refused(tmp_path / "test.jsonl", revision="x")
    assert "no split 'test'; its splits: train" in refused(tmp_path / "test.jsonl", split="test")


@pytest.mark.parametrize(
    "source", ["./x.jsonl", "x.jsonl", "data/x.parquet", "x/", "/no/such", "a/b/c", "~/no-such", "../x", "csv", "json"]
)
def test_a_path_that_is_not_there_is_never_looked_for_on_the_hub(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"no such file or folder: {source}" in refused(source)


def test_other_names_are_hub_ids_and_offline_that_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in ("someone/corpus", "corpus", "someone/corpus.v1"):
        assert f"there is no file or folder {source} here, and as a Hub id" in refused(source)
    assert "hf://datasets/someone/corpus/x.jsonl cannot be read" in refused("hf://datasets/someone/corpus/x.jsonl")


def test_odd_names_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no file matches *.csv" in refused("*.csv")
    assert "the input is an empty name" in refused("")
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "a.csv").write_bytes(b"text\nx\n")
    assert "a.* mixes kinds of files (.csv .jsonl)" in refused("a.*")
    (tmp_path / "nothing").mkdir()
    assert "nothing cannot be read" in refused("nothing")
    (tmp_path / "script").mkdir()
    (tmp_path / "script/script.py").write_text("")
    assert "Dataset scripts are no longer supported" in refused("script")


def test_local_files_are_read_without_the_network(tmp_path, monkeypatch):
    (tmp_path / "x.jsonl").write_bytes(LINES)
    our_folder(tmp_path / "out")
    asked = []

    def no_network(*address: object, **_: object) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    for config in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    assert len(read(tmp_path / "x.jsonl")) == 5
    assert len(read(tmp_path / "out")) == 4
    assert not asked
    with pytest.raises(OSError, match="no network in this test"):
        socket.create_connection(("localhost", 9))  # it would have been noticed
    assert asked


def test_one_row_group_is_not_held_in_memory(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet([{"text": f"{i} " * 4000} for i in range(12_000)]))
    size = pq.read_metadata(path).row_group(0).total_byte_size
    assert pq.read_metadata(path).num_row_groups == 1
    before, most = pa.total_allocated_bytes(), 0
    for row in iter_rows(open_source(str(path)), str(path)):
        most = max(most, pa.total_allocated_bytes() - before)
        assert row["text"]
    assert most < size / 3


def test_the_rows_are_counted_where_that_is_cheap(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "a.parquet").write_bytes(parquet(GOOD))
    (tmp_path / "b.parquet").write_bytes(parquet(GOOD))
    assert known_rows(open_source(f"{tmp_path}/a.jsonl"), f"{tmp_path}/a.jsonl") is None
    assert known_rows(open_source(f"{tmp_path}/*.parquet"), f"{tmp_path}/*.parquet") == 10
    stored = open_source(f"{tmp_path}/a.jsonl", streaming=False)
    assert isinstance(stored, Dataset)
    assert known_rows(stored, f"{tmp_path}/a.jsonl") == 5
    opened = open_source(f"{tmp_path}/*.parquet")
    (tmp_path / "b.parquet").write_bytes(parquet(GOOD)[:-9])
    with pytest.raises(InputError, match=r"b\.parquet: not a whole Parquet file"):
        known_rows(opened, f"{tmp_path}/*.parquet")


def test_the_text_column_is_checked(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(json_lines([{"id": 1, "text": "a", "tags": ["x"], "both": 1}, {"text": None, "both": "y"}]))
    dataset = open_source(str(path))
    check_text_column(dataset, "text", str(path))
    with pytest.raises(InputError, match=r"no column 'body'; its columns: id \(int64\), text \(string\), tags"):
        check_text_column(dataset, "body", str(path))
    with pytest.raises(InputError, match=r"column 'id' of .* holds int64, expected string; .* --text-column"):
        check_text_column(dataset, "id", str(path))
    with pytest.raises(InputError, match=r"x\.jsonl, line 1: column 'both' holds 1, expected string"):
        check_text_column(dataset, "both", str(path))
    memory = Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()
    check_text_column(memory, "text", "memory")
    with pytest.raises(InputError, match="the columns of memory are not known"):
        check_text_column(memory.map(lambda row: row), "text", "memory")
    null = Dataset.from_dict({"text": [None]}, features=Features({"text": Value("null")}))
    check_text_column(null, "text", "null")


def test_the_demo_corpus_is_whole():
    path = str(resources.files("ipt_datasets") / "data/demo.jsonl")
    dataset = open_source(path)
    check_text_column(dataset, "text", path)
    rows = list(iter_rows(dataset, path))
    assert list(dataset.features) == ["id", "text", "title", "category"]
    assert len(rows) == 200 == len({row["id"] for row in rows}) == len({row["text"] for row in rows})
    assert all(80 <= len(row["text"].split()) <= 250 for row in rows)
    assert not any(sign in row["text"] for row in rows for sign in "$\\{}\n")
    assert len({row["category"] for row in rows[:24]}) >= 10
