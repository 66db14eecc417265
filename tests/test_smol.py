"""The embedded model writes real pairs about texts it has never seen, through each markup, and no text is lost."""

import json

import pytest

from ipt_datasets import Synthesizer
from ipt_datasets.corpus.inspect import inspect_folder

# Encyclopaedic paragraphs in our own words.
PARAGRAPHS = [
    "The Dead Sea is a salt lake between Jordan and Israel. Its surface lies about 430 metres below sea level, which "
    "makes its shores the lowest land on Earth. The water is almost ten times as salty as the ocean, so nothing but "
    "bacteria and a few algae live in it, and bathers float without effort.",
    "Basalt is a dark volcanic rock that forms when lava rich in iron and magnesium cools quickly. It makes up most of "
    "the ocean floor. On land, thick flows may shrink into six-sided columns as they cool, like those of the Giant's "
    "Causeway in Northern Ireland.",
    "The bicycle of 1885, built by John Kemp Starley in Coventry, had two wheels of equal size and a chain to the rear "
    "wheel. It was called the Rover. Because its rider sat lower than on a penny-farthing, it was safer, and within "
    "ten years it had replaced the older machines.",
    "Saffron is a spice made from the dried stigmas of a crocus. Each flower bears only three of them, and they are "
    "picked by hand in autumn, so that about 150,000 flowers are needed for a kilogram. Iran grows most of the "
    "world's saffron.",
]


@pytest.fixture(scope="module")
def base_engine(smol_base):
    from ipt_datasets.synthesis.engines.transformers import TransformersEngine

    engine = TransformersEngine(smol_base, batch_size=4)
    yield engine
    engine.close()


def test_the_synthesizer_writes_pairs_about_unseen_paragraphs():
    with Synthesizer(shots=2, max_new_tokens=200) as synthesizer:
        assert (synthesizer.recipe.model, synthesizer.recipe.markup, synthesizer.recipe.primer) == ("smol", "paper", ())
        rows = list(synthesizer.synthesize(PARAGRAPHS))
    assert [row.status for row in rows] == ["ok"] * 4
    pairs = [(text, pair) for text, row in zip(PARAGRAPHS, rows, strict=True) for pair in row.shots[0].pairs]
    assert len(pairs) >= 4
    in_text = [pair.response.strip(" .").lower() in text.lower() for text, pair in pairs]
    assert sum(in_text) >= len(pairs) / 2


@pytest.mark.parametrize("markup", ["chat", "plain"])
def test_the_untuned_model_writes_pairs_behind_the_primer(base_engine, markup):
    settings = {"shots": 2, "max_new_tokens": 100, "frequency_penalty": 0.1}
    synthesizer = Synthesizer(model="some/base-model", engine=base_engine, markup=markup, **settings)
    rows = list(synthesizer.synthesize(PARAGRAPHS))
    assert {row.status for row in rows} <= {"ok", "no_pairs"}
    assert sum(row.status == "ok" for row in rows) >= 3
    for row in rows:
        [shot] = row.shots
        assert shot.prompt_tokens + 100 <= base_engine.max_model_len
        assert shot.finish_reason in ("stop", "length")
        assert all(pair.instruction.endswith("?") for pair in shot.pairs)
        assert shot.position == 1 or not shot.follows


@pytest.mark.slow
def test_the_command_line_with_the_embedded_model(tmp_path, capsys):
    from ipt_datasets.cli import main

    source = tmp_path / "paragraphs.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*PARAGRAPHS, None]))
    assert main(["augment", str(source), str(tmp_path / "out"), "--max-new-tokens", "80"]) == 0
    assert "5 raw texts" in capsys.readouterr().out
    found = inspect_folder(tmp_path / "out")
    assert found.counts.statuses["empty"] == 1
    assert found.counts.statuses["ok"] >= 3
    shown = "\n".join(sample["text"] for sample in inspect_folder(tmp_path / "out", 10).samples)
    assert sum(text in shown for text in PARAGRAPHS) == found.counts.statuses["ok"]
