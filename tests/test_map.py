"""The transforms inside datasets: types, caches, streams."""

import json

import pytest
from datasets import Dataset, Features, IterableDataset, Value, load_dataset
from datasets.fingerprint import Hasher

import ipt_datasets
from ipt_datasets import Synthesizer, Templatizer
from ipt_datasets.schema import SYNTHESIS_FEATURES, TEXT_FEATURES
from ipt_datasets.synthesis.engines.scripted import ScriptedEngine

TEXTS = [f"Note {n}. The harbour has {n} boats and {n * 7} ropes. Nobody counts them twice." for n in range(3000)]


@pytest.fixture
def counted(monkeypatch):
    """How often a scripted engine was asked."""
    asked = []
    answer = ScriptedEngine._answer

    def counting(self, request):
        asked.append(request)
        return answer(self, request)

    monkeypatch.setattr(ScriptedEngine, "_answer", counting)
    return asked


@pytest.fixture
def on_disk(tmp_path):
    """A dataset backed by a file: in-memory ones are never cached."""
    file = tmp_path / "notes.jsonl"
    file.write_text("".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(TEXTS[:40])))
    return load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))


def test_three_thousand_rows_with_default_arguments():
    ds = Dataset.from_dict({"text": TEXTS, "id": range(3000)})
    pairs = ds.map(Synthesizer(engine="scripted"), batched=True)
    assert pairs.features == Features({**ds.features, **SYNTHESIS_FEATURES})
    assert pairs["text"][:] == TEXTS
    assert set(pairs["status"]) == {"ok"}
    assert all(shots[0]["position"] == n % 2 for n, shots in enumerate(pairs["shots"]))
    texts = pairs.map(Templatizer(), batched=True, remove_columns=pairs.column_names)
    assert texts.features == TEXT_FEATURES
    assert len(texts) == 1500
    assert all(TEXTS[int(row)] in text for text, rows in zip(texts["text"], texts["rows"], strict=True) for row in rows)


@pytest.mark.parametrize("shots", [1, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_any_batch_size_and_number_of_shots(shots, batch_size):
    ds = Dataset.from_dict({"text": TEXTS[:23]})
    pairs = ds.map(Synthesizer(engine="scripted", shots=shots), batched=True, batch_size=batch_size)
    assert len(pairs) == 23
    texts = pairs.map(Templatizer(), batched=True, batch_size=batch_size, remove_columns=pairs.column_names)
    assert sum(texts["n_pairs"]) == sum(map(len, pairs["pairs"]))


def test_first_batches_without_pairs_or_rejects_freeze_no_type():
    texts = [None] * 10 + TEXTS[:10]
    ds = Dataset.from_dict({"text": texts}, features=Features({"text": Value("string")}))
    pairs = ds.map(Synthesizer(engine="scripted"), batched=True, batch_size=5)
    assert pairs.features == Features({**ds.features, **SYNTHESIS_FEATURES})
    assert pairs["status"][:] == ["empty"] * 10 + ["ok"] * 10
    only_empty = ds.select(range(10)).map(Synthesizer(engine="scripted"), batched=True)
    assert only_empty.features == pairs.features
    rendered = only_empty.map(Templatizer(), batched=True, remove_columns=pairs.column_names, features=TEXT_FEATURES)
    assert rendered.features == TEXT_FEATURES
    assert len(rendered) == 0


def test_after_filter_and_shuffle():
    ds = Dataset.from_dict({"text": TEXTS[:60], "id": range(60)})
    pairs = ds.shuffle(seed=3).filter(lambda row: row["id"] % 3).map(Synthesizer(engine="scripted"), batched=True)
    assert len(pairs) == 40
    assert set(pairs["status"]) == {"ok"}
    kept = pairs.filter(lambda row: row["shots"][0]["position"] == 1)
    with pytest.warns(UserWarning, match="beginning"):
        texts = kept.map(Templatizer(), batched=True, remove_columns=kept.column_names)
    assert len(texts) == 20


def test_a_missing_or_non_string_column():
    ds = Dataset.from_dict({"body": TEXTS[:3], "n": [1, 2, 3]})
    with pytest.raises(ipt_datasets.errors.InputError, match="no column 'text'; the columns are body, n"):
        ds.map(Synthesizer(engine="scripted"), batched=True)
    with pytest.raises(ipt_datasets.errors.InputError, match="column 'n' holds int in row 0"):
        ds.map(Synthesizer(engine="scripted", text_column="n"), batched=True)
    assert len(ds.map(Synthesizer(engine="scripted", text_column="body"), batched=True)) == 3


def test_an_equal_object_reuses_the_cache(on_disk, counted):
    first = on_disk.map(Synthesizer(engine="scripted", shots=3), batched=True)
    assert len(counted) == 40
    used = Synthesizer(engine="scripted", shots=3)
    used.pairs(TEXTS[0])
    counted.clear()
    again = on_disk.map(used, batched=True)  # equal, though its engine runs
    assert not counted
    assert again._fingerprint == first._fingerprint
    assert again.to_list() == first.to_list()


@pytest.mark.parametrize(
    "changed",
    [
        {"shots": 3},
        {"seed": 1},
        {"max_new_tokens": 300},
        {"temperature": 0.5},
        {"markup": "plain"},
        {"max_pairs": 2},
        {"long_texts": "skip"},
    ],
)
def test_a_changed_recipe_is_asked_anew(on_disk, counted, changed):
    on_disk.map(Synthesizer(engine="scripted"), batched=True)
    counted.clear()
    on_disk.map(Synthesizer(engine="scripted", **changed), batched=True)
    assert len(counted) == 40


def test_a_new_package_version_is_asked_anew(on_disk, counted, monkeypatch):
    on_disk.map(Synthesizer(engine="scripted"), batched=True)
    counted.clear()
    monkeypatch.setattr("ipt_datasets.synthesis.synthesizer.version", lambda _: "99.0")
    on_disk.map(Synthesizer(engine="scripted"), batched=True)
    assert len(counted) == 40


def test_how_the_model_runs_is_not_part_of_the_fingerprint():
    assert Hasher.hash(Synthesizer(engine="scripted", engine_options={"max_requests": 2})) == Hasher.hash(
        Synthesizer(engine="scripted")
    )


def test_worker_processes(on_disk):
    alone = on_disk.map(Synthesizer(engine="scripted"), batched=True, batch_size=20)
    shared = on_disk.map(Synthesizer(engine="scripted"), batched=True, batch_size=20, num_proc=2)
    assert shared.to_list() == alone.to_list()


def test_streams(on_disk):
    expected = on_disk.map(Synthesizer(engine="scripted"), batched=True, batch_size=10).to_list()
    stream = on_disk.to_iterable_dataset()
    synthesizer = Synthesizer(engine="scripted")
    assert list(stream.map(synthesizer, batched=True, batch_size=10)) == expected
    typed = stream.map(synthesizer, batched=True, batch_size=10, features=synthesizer.features(stream.features))
    assert typed.features == Features({**stream.features, **SYNTHESIS_FEATURES})
    texts = typed.map(Templatizer(), batched=True, batch_size=10, remove_columns=typed.column_names)
    assert sum(row["n_pairs"] for row in texts) == sum(len(row["pairs"]) for row in expected)


def test_a_stream_in_arrow_format_keeps_exact_types_and_can_be_written(tmp_path):
    # Without the format, datasets 5.2 guesses the types of each piece of a stream by itself when it writes one.
    rows = [{"text": text} for text in [None, None, *TEXTS[:4], ""]]
    stream = IterableDataset.from_generator(lambda: iter(rows), features=Features({"text": Value("string")}))
    synthesizer = Synthesizer(engine="scripted")
    mapped = stream.with_format("arrow").map(synthesizer, batched=True, batch_size=2)
    for table in mapped.iter(batch_size=2):
        assert Features.from_arrow_schema(table.schema) == synthesizer.features(stream.features)
    mapped.to_parquet(tmp_path / "pairs.parquet")
    written = load_dataset("parquet", data_files=str(tmp_path / "pairs.parquet"), split="train")
    assert written.features == synthesizer.features(stream.features)
    assert written["status"][:] == ["empty", "empty", "ok", "ok", "ok", "ok", "empty"]


def test_the_default_transforms_are_ready_objects():
    from ipt_datasets import synthesize_batch, templatize_batch

    assert synthesize_batch.recipe.model == "smol"
    assert synthesize_batch.recipe.shots == 2
    assert synthesize_batch.engine is None
    assert templatize_batch.recipe.seed == 0
