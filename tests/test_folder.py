"""Shards as they are written: what `datasets` would make of the same columns, faster."""

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, List, Value

from ipt_datasets.corpus.folder import OutputFolder
from ipt_datasets.schema import PAIRS, TypedColumn

PAIR = {"instruction": "q", "response": "a", "options": [], "rationale": "", "shot": 0}
COLUMNS = {
    "text": (Value("string"), ["a", None, "é\n"]),
    "number": (Value("int64"), [1, None, -(2**60)]),
    "share": (Value("float64"), [0.5, 1, None]),
    "flag": (Value("bool"), [True, None, False]),
    "when": (Value("timestamp[ms]"), [datetime.datetime(2026, 1, 1), None, None]),
    "small": (Value("int8"), [1, 2, None]),
    "tags": (List(Value("string")), [["x"], [], None]),
    "meta": ({"k": Value("int64"), "v": List(Value("string"))}, [{"k": 1, "v": ["a"]}, {"k": None, "v": []}, None]),
    "word of a number": (Value("string"), [1, None, 2]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_shard_holds_what_datasets_would_make_of_its_columns(name, tmp_path):
    feature, values = COLUMNS[name]
    features = Features({name: feature, "pairs": PAIRS})
    pairs = [[PAIR], [], []]
    with OutputFolder(tmp_path / "out") as folder:
        folder.write_shard("pairs", 0, {name: values, "pairs": TypedColumn(pairs, PAIRS)}, features)
        [shard] = folder.shards("pairs")
    expected = Dataset.from_dict({name: values, "pairs": pairs}, features=features).with_format("arrow")[:]
    assert pq.read_schema(shard).metadata == features.arrow_schema.metadata
    assert pa.Table.equals(pq.read_table(shard), expected)


def test_a_value_that_does_not_fit_its_column_is_refused(tmp_path):
    with OutputFolder(tmp_path / "out") as folder, pytest.raises((pa.ArrowException, ValueError)):
        folder.write_shard("text", 0, {"number": ["x"]}, Features({"number": Value("int64")}))
    assert not list((tmp_path / "out").glob("text/*"))
