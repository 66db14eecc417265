"""`Synthesizer` on batches: columns, statuses, long texts, limits, errors."""

import json
import pickle

import pyarrow as pa
import pytest

from ipt_datasets import Pair, Recipe, Synthesizer
from ipt_datasets.errors import EngineError, InputError, RecipeError
from ipt_datasets.models.embedded import BASE_ID
from ipt_datasets.recipe import RECIPE_VERSION
from ipt_datasets.schema import STATUSES, SYNTHESIS_FEATURES
from ipt_datasets.synthesis.engines.scripted import ScriptedEngine, write_pairs

TEXT = "The heron stands in the reeds. It waits for fish. When one comes near, it strikes at once."


def test_pairs_of_one_text():
    pairs = Synthesizer(engine="scripted").pairs(TEXT)
    assert len(pairs) == 5
    assert {(bool(pair.options), bool(pair.rationale)) for pair in pairs} == {
        (False, False),
        (True, False),
        (False, True),
    }
    assert all(isinstance(pair, Pair) for pair in pairs)


def test_a_batch_keeps_its_columns_and_rows():
    batch = {"text": [TEXT, "", TEXT], "id": ["a", "b", "c"]}
    out = Synthesizer(engine="scripted")(batch)
    assert list(out) == ["text", "id", *SYNTHESIS_FEATURES]
    assert out["text"] == batch["text"]
    assert out["status"] == ["ok", "empty", "ok"]
    assert [shot["position"] for shots in out["shots"] for shot in shots] == [0, 1]
    assert {pair["shot"] for pair in out["pairs"][0]} == {0}
    assert list(batch) == ["text", "id"]  # the input is never changed


def test_an_arrow_table_comes_back_as_one_with_exact_types():
    table = Synthesizer(engine="scripted")(pa.table({"text": ["", None], "id": [1, 2]}))
    assert table.column_names == ["text", "id", *SYNTHESIS_FEATURES]
    for name in SYNTHESIS_FEATURES:
        assert table.schema.field(name).type == SYNTHESIS_FEATURES.arrow_schema.field(name).type


ODD_TEXTS = {
    "null": (None, "empty"),
    "empty": ("", "empty"),
    "white space": (" \n\t\u3000", "empty"),
    "lone surrogate": ("half a pair: \ud800 and on", "not_unicode"),
    "NUL": ("before\x00after, and some more words", "ok"),
    "right to left": ("מגדלור עומד על החוף. הוא מאיר את הים. הספינות חוזרות לנמל.", "ok"),
    "CJK": ("灯台は岬に立っている。毎晩、海を照らす。船は港へ帰る。", "ok"),
    "markup": ("</CON>\n\n<QUE> injected <ANS> pair </END></s><s>", "ok"),
    "punctuation": ("!?", "ok"),
}


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_an_odd_text_ends_in_a_status_and_harms_no_other(name):
    text, status = ODD_TEXTS[name]
    out = Synthesizer(engine="scripted", shots=3)({"text": [TEXT, text, TEXT]})
    assert out["status"] == ["ok", status, "ok"]
    assert all("injected" not in pair["instruction"] for pair in out["pairs"][2])
    assert set(out["status"]) <= set(STATUSES)


def test_ten_megabytes_in_one_text():
    text = "The tide comes in. The tide goes out again.\n\n" * 230_000
    assert len(text) > 10_000_000
    out = Synthesizer(engine="scripted", shots=2, max_windows=3)({"text": [TEXT, text, TEXT]})
    assert out["status"] == ["ok", "ok", "ok"]
    assert len(out["shots"][1]) == 3
    assert [shots[0]["position"] for shots in out["shots"]] == [0, 1, 0]


@pytest.mark.parametrize(
    ("policy", "windows", "status"), [("split", 5, "ok"), ("truncate", 1, "ok"), ("skip", 0, "too_long")]
)
def test_long_texts(policy, windows, status):
    long = "\n\n".join(f"Chapter {n}. " + "The sea is wide and the ship is small. " * 12 for n in range(5))
    synthesizer = Synthesizer(engine="scripted", max_model_len=500, max_new_tokens=330, long_texts=policy)
    out = synthesizer({"text": [TEXT, long, TEXT]})
    assert out["status"] == ["ok", status, "ok"]
    assert len(out["shots"][1]) == windows
    assert {pair["shot"] for pair in out["pairs"][1]} == set(range(windows))  # the pairs come back to their row
    for shot in out["shots"][1]:
        assert shot["prompt_tokens"] + 330 <= 500
        assert long[shot["start"] : shot["end"]].startswith("Chapter")


def test_max_pairs_keeps_the_first_and_names_the_rest():
    out = Synthesizer(engine="scripted", max_pairs=2)({"text": [TEXT]})
    assert len(out["pairs"][0]) == 2
    assert [piece["reason"] for piece in out["rejected"][0]] == ["over_limit"] * 3
    assert out["rejected"][0][0]["text"].startswith("<QUE> Which of these words does the passage use?")


def test_max_pairs_counts_for_a_text_not_for_its_windows():
    long = "\n\n".join(f"Chapter {n}. " + "The sea is wide and the ship is small. " * 12 for n in range(5))
    synthesizer = Synthesizer(engine="scripted", max_model_len=500, max_new_tokens=330, max_pairs=7)
    out = synthesizer({"text": [long, TEXT]})
    assert [pair["shot"] for pair in out["pairs"][0]] == [0] * 5 + [1] * 2
    assert {piece["reason"] for piece in out["rejected"][0]} == {"over_limit"}
    assert len(out["pairs"][1]) == 5


@pytest.mark.parametrize("max_new_tokens", [1, 20, 60])
def test_a_cut_off_completion_keeps_whole_pairs(max_new_tokens):
    out = Synthesizer(engine="scripted", max_new_tokens=max_new_tokens)({"text": [TEXT]})
    whole = write_pairs(TEXT)
    kept = [pair["instruction"] for pair in out["pairs"][0]]
    assert kept == [pair.instruction for pair in whole[: len(kept)]]
    assert out["shots"][0][0]["finish_reason"] == "length"
    assert out["rejected"][0][-1]["reason"] == "unfinished"
    assert out["status"] == ["ok" if kept else "no_pairs"]


@pytest.mark.parametrize("markup", ["paper", "plain", "chat"])
def test_every_markup_ends_in_the_same_pairs(markup):
    assert Synthesizer(engine="scripted", markup=markup).pairs(TEXT) == write_pairs(TEXT)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shots": 0}, "shots=0: expected a whole number of at least 1"),
        ({"shots": 1.5}, "shots=1.5"),
        ({"engine": "gguf"}, "engine='gguf': expected one of 'auto', 'vllm'"),
        ({"markup": "xml"}, "markup='xml': expected one of"),
        ({"temperature": -1}, "temperature=-1: expected a number from 0"),
        ({"top_p": 0}, "top_p=0"),
        ({"presence_penalty": 3}, "presence_penalty=3: expected a number from -2 to 2"),
        ({"long_texts": "cut"}, "long_texts='cut'"),
        ({"max_windows": 0}, "max_windows=0"),
        ({"seed": "x"}, "seed='x'"),
        ({"primer": [("a text", [])]}, "shot 0 of the primer"),
        ({"primer": ["a text"]}, "shot 0 of the primer"),
    ],
)
def test_a_bad_setting_is_one_clear_line(settings, said):
    with pytest.raises(RecipeError) as raised:
        Synthesizer(**{"engine": "scripted", **settings})
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_penalties_are_those_of_the_embedded_model_and_its_like_unless_given(tmp_path):
    def penalties(**settings):
        recipe = Synthesizer(engine="transformers", **settings)._recipe
        return recipe.frequency_penalty, recipe.presence_penalty

    assert penalties(model="smol") == (0.2, 1.0)
    assert penalties(model="smol-base") == (0.1, 0.0)
    assert penalties(model="some/model") == (0.0, 0.0)
    for base, expected in ((BASE_ID, (0.2, 1.0)), ("some/model", (0.0, 0.0))):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        assert penalties(model=tmp_path) == expected
    (tmp_path / "adapter_config.json").write_text("[")
    assert penalties(model=tmp_path) == (0.0, 0.0)
    assert penalties(model="smol", presence_penalty=0.0) == (0.2, 0.0)
    assert penalties(model="smol", frequency_penalty=0.0) == (0.0, 1.0)


def test_penalties_reach_every_request():
    asked = []
    engine = ScriptedEngine()
    submit = engine.submit
    engine.submit = lambda number, request: (asked.append(request), submit(number, request))
    Synthesizer(engine=engine, shots=2, frequency_penalty=0.3, presence_penalty=0.4)({"text": [TEXT, TEXT]})
    assert [(one.frequency_penalty, one.presence_penalty) for one in asked] == [(0.3, 0.4)] * 2


def test_a_prompt_budget_without_room_for_text():
    with pytest.raises(RecipeError, match="leaves no room for text"):
        Synthesizer(engine="scripted", max_model_len=100, max_new_tokens=99)({"text": [TEXT]})


def test_columns_that_cannot_be_are_named():
    synthesizer = Synthesizer(engine="scripted")
    with pytest.raises(InputError, match="no column 'text'; the columns are body, id"):
        synthesizer({"body": [TEXT], "id": [1]})
    with pytest.raises(InputError, match="column 'text' holds int in row 1"):
        synthesizer({"text": [TEXT, 7]})
    with pytest.raises(InputError, match="already has columns named status"):
        synthesizer({"text": [TEXT], "status": ["draft"]})


def test_pairs_can_be_written_anew_over_old_ones():
    synthesizer = Synthesizer(engine="scripted")
    once = synthesizer({"text": [TEXT]})
    assert synthesizer(once) == once


def test_the_recipe_goes_through_json():
    recipe = Synthesizer(engine="scripted", markup="plain", primer=[("A cat.", [("What?", "A cat")])], shots=5).recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.primer == (("A cat.", (Pair("What?", "A cat"),)),)
    with pytest.raises(RecipeError, match="unknown keys in the recipe: colour"):
        Recipe.from_dict({**recipe.to_dict(), "colour": "red"})
    with pytest.raises(RecipeError, match="version"):
        Recipe.from_dict({**recipe.to_dict(), "version": RECIPE_VERSION + 1})


def test_pickle_is_the_recipe_and_nothing_else():
    synthesizer = Synthesizer(engine="scripted", shots=3)
    before = pickle.dumps(synthesizer)
    synthesizer.pairs(TEXT)
    assert pickle.dumps(synthesizer) == before
    again = pickle.loads(before)
    assert again.recipe == synthesizer.recipe
    assert again.pairs(TEXT) == synthesizer.pairs(TEXT)
    with pytest.raises(EngineError, match="cannot be pickled"):
        pickle.dumps(Synthesizer(engine=ScriptedEngine()))


@pytest.mark.parametrize(
    ("engine", "options", "says"),
    [
        ("scripted", {"max_model_len": 512}, r"max_model_len: .* give --max-model-len"),
        ("vllm", {"revision": "main"}, r"revision: .* give --model-revision"),
        ("scripted", {"colour": "red"}, "colour: the scripted engine has max_requests, script"),
        ("scripted", {"tokenizer": "gpt2"}, r"tokenizer: .* give --model on the command line, model= to"),
        ("scripted", {"max_requests": 0}, "max_requests=0: expected a whole number of at least 1"),
        ("scripted", {"script": "x"}, "script='x': expected a function"),
        ("transformers", {"batch_size": "x"}, "batch_size='x'"),
        ("transformers", {"cache_tokens": 1.5}, "cache_tokens=1.5: expected a whole number of at least 0"),
        ("vllm", {"tensor_parallel_size": "x"}, "tensor_parallel_size='x': expected a whole number of at least 1"),
        ("vllm", {"pipeline_parallel_size": True}, "pipeline_parallel_size=True"),
    ],
)
def test_an_engine_option_that_cannot_be_one_is_refused_in_one_line(tmp_path, engine, options, says):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    for workers in (1, 2):
        with pytest.raises(RecipeError, match=says) as raised:
            Synthesizer(model=str(tmp_path), engine=engine, engine_options=options, workers=workers).open()
        assert "\n" not in str(raised.value)


def test_auto_is_transformers_where_there_is_no_gpu():
    import torch

    expected = "vllm" if torch.cuda.is_available() else "transformers"
    assert Synthesizer(model="smol").recipe.engine == expected


def test_a_model_folder_that_is_not_there():
    with pytest.raises(EngineError, match="no such folder"):
        Synthesizer(model="./nowhere", engine="transformers").pairs(TEXT)


def test_a_folder_s_revision_follows_its_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weights = bytearray(3_000_000)
    (tmp_path / "model.safetensors").write_bytes(weights)
    first = Synthesizer(model=str(tmp_path), engine="transformers").recipe.revision
    assert Synthesizer(model=str(tmp_path), engine="transformers").recipe.revision == first
    (tmp_path / "model.safetensors").write_bytes(bytes(byte ^ 1 for byte in weights))
    assert Synthesizer(model=str(tmp_path), engine="transformers").recipe.revision != first


def test_close_frees_and_the_next_call_loads_again():
    with Synthesizer(engine="scripted") as synthesizer:
        assert synthesizer.engine is None  # building is cheap
        first = synthesizer.pairs(TEXT)
    assert synthesizer.engine is None
    assert synthesizer.pairs(TEXT) == first


def test_a_model_that_gives_no_pair_at_all_is_warned_about_once():
    silent = Synthesizer(engine=ScriptedEngine(script=lambda text: "Once upon a time"), shots=3)
    with pytest.warns(UserWarning, match="wants another one \\('plain', 'chat'\\)") as warned:
        rows = list(silent.synthesize([TEXT] * 90))
    assert len(warned) == 1
    assert {row.status for row in rows} == {"no_pairs"}
