"""The Templatizer as datasets uses it: columns and types, cache and pickle, and the errors a user can cause."""

import dataclasses
import json
import pickle

import pytest
from datasets import load_dataset
from datasets.fingerprint import Hasher
from templating_rows import CHOICE, FREE, THOUGHT, batch, dataset, row, shot, texts

from ipt_datasets.errors import InputError, RecipeError
from ipt_datasets.schema import TEXT_FEATURES, Pair
from ipt_datasets.templating import templatizer as module
from ipt_datasets.templating.documents import RowError
from ipt_datasets.templating.templatizer import Templatizer, templatize_batch

# Errors


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (
            row("A text.", [(1, FREE)], [shot("c")], id="r7"),
            r"row r7: pairs\[0\] names shot 1, but the row has 1 shots",
        ),
        (row("A text.", [(-1, FREE)], [shot("c")], id="r7"), "names shot -1"),
        (row("A text.", [(0, FREE)], id="r7"), "the row has 0 shots"),
        (row("A text.", [(0, Pair("q", None))], [shot("c")], id="r7"), "row r7: pairs\\[0\\] has no instruction or no"),
        (row(5, [(0, FREE)], [shot("c")], id="r7"), "row r7: the text is int"),
        (row("abc", [(0, FREE)], [shot("c", 0, 0, 2), shot("c", 1, 2, 9)], id="r7"), "a shot ends at 9, the text at 3"),
    ],
)
def test_a_row_that_contradicts_itself_is_named(bad, named):
    with pytest.raises(RowError, match=named) as error:
        templatize_batch(batch(bad))
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, InputError)


def test_missing_columns_are_named_in_one_line():
    with pytest.raises(InputError, match=r"no column pairs, shots \(it has text\)") as error:
        templatize_batch({"text": ["A text."]})
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="text_column='body'"):
        Templatizer(text_column="body")(batch(row("A text.")))
    with pytest.raises(InputError, match="batched=True"):
        templatize_batch(row("A text."))


@pytest.mark.parametrize(
    "settings_",
    [{"seed": "1"}, {"seed": True}, {"frame_weights": {}}, {"frame_weights": {"classic": -1}},
     {"frame_weights": {"classic": 0}}, {"frame_weights": {"clasic": 1}}, {"frame_weights": {"classic": float("nan")}}],
)  # fmt: skip
def test_settings_out_of_range_are_named(settings_):
    with pytest.raises(RecipeError, match=next(iter(settings_))):
        Templatizer(**settings_)


def test_template_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml cannot be read"):
        Templatizer(templates=tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"bad\.toml cannot be read"):
        Templatizer(templates=[bad])


# The datasets library


ROWS = [
    row("First text.", [FREE, CHOICE], ("c", 0)),
    row(None, status="empty"),
    row("Second text.", [THOUGHT], ("c", 1)),
    row("Third text.", [], ("d", 0), "no_pairs"),
]


def test_dataset_map_gives_the_documented_columns():
    pairs = dataset(*ROWS)
    out = pairs.map(templatize_batch, batched=True, remove_columns=pairs.column_names)
    assert out.features == TEXT_FEATURES == templatize_batch.features
    assert out["text"][:] == texts(ROWS)


def test_types_hold_where_every_list_is_empty():
    pairs = dataset(row("Plain.", status="not_selected"))
    assert pairs.map(templatize_batch, batched=True, remove_columns=pairs.column_names).features == TEXT_FEATURES
    nothing = dataset(row(None, status="empty"))
    out = nothing.map(templatize_batch, batched=True, remove_columns=nothing.column_names, features=TEXT_FEATURES)
    assert out.features == TEXT_FEATURES
    assert len(out) == 0
    assert templatize_batch({"text": [], "pairs": [], "shots": []})["text"] == []


def test_iterable_dataset_map_gives_the_same():
    pairs = dataset(*ROWS)
    out = pairs.to_iterable_dataset().map(templatize_batch, batched=True, remove_columns=pairs.column_names)
    mapped = pairs.map(templatize_batch, batched=True, remove_columns=pairs.column_names)
    assert list(out) == mapped.to_list()


def test_a_table_gives_a_table():
    pairs = dataset(*ROWS)
    table = templatize_batch(pairs.with_format("arrow")[:])
    assert table.schema == TEXT_FEATURES.arrow_schema
    assert table.to_pylist() == pairs.map(templatize_batch, batched=True, remove_columns=pairs.column_names).to_list()
    mapped = pairs.with_format("arrow").map(templatize_batch, batched=True, remove_columns=pairs.column_names)
    assert mapped.with_format(None).to_list() == table.to_pylist()


def test_after_filter_and_shuffle_every_text_is_there():
    rows = [row(f"Text <{at}>.", [FREE], (f"c{at // 3}", at % 3)) for at in range(300)]
    pairs = dataset(*rows).filter(lambda one: "<7" not in one["text"]).shuffle(seed=1)
    with pytest.warns(UserWarning, match="beginning"):
        out = pairs.map(Templatizer(), batched=True, remove_columns=pairs.column_names, batch_size=50)
    assert sum(out["n_pairs"]) == len(pairs)
    joined = "\n".join(out["text"])
    assert all(text in joined for text in pairs["text"])


def test_an_equal_object_reuses_the_cache_and_another_does_not(tmp_path):
    pairs = dataset(*ROWS)
    pairs.to_parquet(tmp_path / "pairs.parquet")
    stored = load_dataset("parquet", data_files=str(tmp_path / "pairs.parquet"), cache_dir=str(tmp_path), split="train")

    def cached(templatizer):
        out = stored.map(templatizer, batched=True, remove_columns=stored.column_names)
        return out.cache_files[0]["filename"]

    used = Templatizer(seed=5)
    first = cached(used)
    assert cached(used) == cached(Templatizer(seed=5)) == first
    assert cached(Templatizer(seed=6)) != first


def test_the_hash_is_that_of_the_recipe(tmp_path, monkeypatch):
    mine, moved = tmp_path / "mine.toml", tmp_path / "moved.toml"
    for path in (mine, moved):
        path.write_text('[text]\nnouns = ["chapter"]')
    other = tmp_path / "other.toml"
    other.write_text('[text]\nnouns = ["verse"]')
    weights = {"classic": 2, "dialogue": 1}

    def make(seed=3, templates=mine, weights=weights, **more):
        return Templatizer(seed=seed, templates=templates, frame_weights=weights, **more)

    used = make()
    before = Hasher.hash(used)
    used(batch(*ROWS))
    assert before == Hasher.hash(used) == Hasher.hash(make()) == Hasher.hash(pickle.loads(pickle.dumps(used)))
    assert before == Hasher.hash(make(templates=[str(moved)], weights=dict(reversed(weights.items()))))
    changed = [
        make(seed=4),
        make(templates=other),
        make(templates=()),
        make(templates=[mine, other]),
        make(weights={"classic": 1}),
        make(weights=None),
        make(text_column="body"),
        make(id_column="n"),
    ]
    assert len({before, *map(Hasher.hash, changed)}) == 9
    monkeypatch.setattr(module, "TEMPLATING_VERSION", 10**6)
    assert Hasher.hash(make()) != before


def test_a_pickle_works_without_the_users_files(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('replace = true\n[text]\nlead_ins = ["<<{text}>>"]')
    templatizer = Templatizer(seed=2, templates=mine, frame_weights={"classic": 1})
    expected = templatizer(batch(*ROWS))
    pickled = pickle.dumps(templatizer)
    mine.unlink()
    again = pickle.loads(pickled)
    assert again(batch(*ROWS)) == expected
    assert again.recipe == templatizer.recipe
    assert "<<First text.>>" in expected["text"][0]


def test_the_recipe_is_json(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('[text]\nnouns = ["chapter"]')
    recipe = Templatizer(seed=9, templates=mine, frame_weights={"classic": 1}).recipe
    told = json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert told["seed"] == 9
    assert told["frame_weights"] == {"classic": 1.0}
    assert len(told["templates"][0]) == 64
    assert str(module.TEMPLATING_VERSION) in told["version"]
