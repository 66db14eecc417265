"""Released corpora become corpora of ours: whole, in order, and the same after any stop."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from ipt_datasets import InstructionAugmentedCorpora, SynthesizerCollection
from ipt_datasets.corpus.convert import convert
from ipt_datasets.corpus.folder import OutputFolder
from ipt_datasets.corpus.templatize import templatize
from ipt_datasets.errors import InputError, OutputError, RecipeError
from ipt_datasets.schema import SYNTHESIS_FEATURES, TASK_FEATURES
from ipt_datasets.templating.templatizer import Templatizer

RELEASED = Path(__file__).parent / "data" / "released"
CORPORA, COLLECTION = str(RELEASED / "corpora"), str(RELEASED / "collection")


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def convert_all(output, **options):
    return convert(CORPORA, output, Templatizer(seed=1), rows_per_shard=2, progress=False, **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    return convert_all(output)


def test_the_rows_are_the_builders_and_the_texts_templatizes(undisturbed, tmp_path):
    pairs = load_dataset(str(undisturbed.path), "pairs", split="train")
    assert {**SYNTHESIS_FEATURES}.items() <= pairs.features.items()
    streamed = list(InstructionAugmentedCorpora(CORPORA).as_streaming_dataset(split="train"))
    assert pairs.to_list() == streamed
    assert len(list((undisturbed.path / "pairs").iterdir())) > 1
    rendered = templatize(CORPORA, tmp_path / "texts", released=True, rows_per_shard=2, progress=False).path
    texts = load_dataset(str(undisturbed.path), split="train")
    assert texts.to_list() == load_dataset(str(rendered), split="train").to_list()


def test_the_counts_add_up(undisturbed):
    assert undisturbed.rows == sum(undisturbed.statuses.values()) == 8
    assert undisturbed.pairs == 9
    card = (undisturbed.path / "README.md").read_text()
    assert "| raw texts | 8 |" in card
    assert "9 pairs about 8 raw texts, which the authors of" in card
    for status, number in undisturbed.statuses.items():
        assert f"| {status}: " in card
        assert f" | {number} |" in card


@pytest.mark.parametrize("stop_at", range(7))
def test_a_stopped_run_goes_on_to_the_same_folder(stop_at, undisturbed, tmp_path, monkeypatch):
    left, write = [stop_at], OutputFolder.write_shard

    def write_or_stop(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(*args)

    output = tmp_path / "out"
    monkeypatch.setattr(OutputFolder, "write_shard", write_or_stop)
    n_shards = 2 * len(list((undisturbed.path / "pairs").iterdir()))
    if stop_at < n_shards:
        with pytest.raises(KeyboardInterrupt):
            convert_all(output)
        assert not (output / "README.md").exists()
    monkeypatch.setattr(OutputFolder, "write_shard", write)
    made = convert_all(output, resume=True)
    assert files(output) == files(undisturbed.path)
    assert (made.rows, made.pairs, made.texts) == (undisturbed.rows, undisturbed.pairs, undisturbed.texts)


def test_a_finished_run_is_not_done_again(undisturbed, monkeypatch):
    monkeypatch.setattr(OutputFolder, "write_shard", lambda *_: pytest.fail("wrote"))
    assert convert_all(undisturbed.path, resume=True) == undisturbed


def test_another_recipe_or_a_full_folder_is_refused(undisturbed):
    with pytest.raises(OutputError, match="go on with --resume"):
        convert_all(undisturbed.path)
    with pytest.raises(OutputError, match=r"input.config_name \(was None, is 'part-0'\)"):
        convert_all(undisturbed.path, resume=True, config_name="part-0")


def test_an_input_that_shrank_is_refused(tmp_path, monkeypatch):
    source = tmp_path / "in.jsonl"
    line = [{"context": "A good text.", "QA_list": [{"Q": "Which?", "A": "a good one"}], "inherit_from_prev": False}]
    source.write_text(f"{json.dumps(line)}\n" * 4)
    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "digest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(str(source), tmp_path / "out", rows_per_shard=1, progress=False)
    source.write_text(f"{json.dumps(line)}\n" * 3)
    with pytest.raises(OutputError, match="has 3 rows, and 4 of them are written already"):
        convert(str(source), tmp_path / "out", resume=True, rows_per_shard=1, progress=False)


def test_pairs_alone(tmp_path):
    made = convert(CORPORA, tmp_path / "out", config_name="part-1", progress=False)
    assert made.texts == 0
    assert not (tmp_path / "out/text").exists()
    assert load_dataset(str(made.path), split="train").num_rows == made.rows
    again = convert(CORPORA, tmp_path / "out", progress=False, overwrite=True)
    assert again.rows > made.rows


def test_the_collection_becomes_task_rows(tmp_path):
    made = convert(COLLECTION, tmp_path / "out", builder_class=SynthesizerCollection, progress=False)
    rows = load_dataset(str(made.path), split="train")
    assert rows.features == TASK_FEATURES
    assert rows.to_list() == list(SynthesizerCollection(COLLECTION).as_streaming_dataset(split="train"))
    assert (made.rows, made.pairs, made.statuses.total()) == (3, 4, 0)
    assert pq.read_schema(next((made.path / "pairs").iterdir())).names == [*TASK_FEATURES]


def test_what_cannot_be_done_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(RecipeError, match="task rows"):
        convert(COLLECTION, tmp_path / "out", Templatizer(), builder_class=SynthesizerCollection, progress=False)
    with pytest.raises(InputError, match="nowhere cannot be found"):
        convert(str(tmp_path / "nowhere"), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no rows"):
        convert(str(tmp_path / "empty.jsonl"), tmp_path / "out", progress=False)
