"""The card of a repository: nothing of a person's is lost, ours stands there once, one config is the default."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipt_datasets.corpus.card import corpus_header
from ipt_datasets.corpus.provenance import section
from ipt_datasets.corpus.publication import open_finished, read_publication
from ipt_datasets.corpus.repo_card import merged_card
from ipt_datasets.errors import OutputError


def make_publication(folder, texts=("one", "two"), config_name=None):
    (folder / "text").mkdir(parents=True)
    pq.write_table(pa.table({"text": list(texts)}), folder / "text" / "train-00000.parquet")
    (folder / "README.md").write_text(corpus_header({"text": "none"}) + "\n\n# Texts\n\nSee `recipe.json`.\n")
    (folder / "recipe.json").write_text("{}")
    with open_finished(folder) as opened:
        return read_publication(opened, config_name)


@pytest.fixture(scope="module")
def publication(tmp_path_factory):
    return make_publication(tmp_path_factory.mktemp("publication") / "texts")


def header(card):
    return DatasetCard(card).data.to_dict()


def configs(card):
    return {config["config_name"]: config.get("default", False) for config in header(card)["configs"]}


lines = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), max_size=60)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=lines, after=lines, first=lines, second=lines, newline=st.sampled_from(["\n", "\r\n"]))
def test_prose_stays_and_merging_again_changes_nothing(publication, before, after, first, second, newline):
    head = "---\npretty_name: x\n---\n"
    card = merged_card((head + before).replace("\n", newline), publication, first)
    start = card.index("<!-- ipt publish: text")
    written = card[:start] + card[start:] + after.replace("\n", newline)
    assert merged_card(written, publication, first) == written
    replaced = merged_card(written, publication, second)
    assert replaced.startswith(card[:start])
    assert replaced.endswith(f"<!-- end of text -->{newline}" + after.replace("\n", newline))
    assert before.replace("\n", newline).rstrip() in replaced
    assert replaced.count("<!-- ipt publish: text") == 1
    assert header(replaced)["pretty_name"] == "x"


@pytest.mark.parametrize("existing", [None, "", "Just prose.\n", "\ufeff---\nmine: 1\n---\nProse.\n", "---\n---\n"])
def test_any_card_takes_ours(publication, existing):
    card = merged_card(existing, publication, "Ours.")
    assert configs(card) == {"text": True}
    assert "Ours." in card
    assert ("rose." in card) == ("rose." in (existing or ""))
    assert merged_card(card, publication, "Ours.") == card


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ([], {"text": True}),
        ([{"config_name": "raw"}], {"raw": False, "text": True}),
        ([{"config_name": "raw", "default": True}], {"raw": True, "text": False}),
        ([{"config_name": "default"}], {"default": False, "text": False}),
        ([{"config_name": "text", "data_dir": "old"}, {"config_name": "raw"}], {"text": True, "raw": False}),
        ([{"config_name": "text"}, {"config_name": "raw", "default": True}], {"text": False, "raw": True}),
    ],
)
def test_one_default_at_most(publication, before, expected):
    card = merged_card(f"---\n{yaml.safe_dump({'configs': before})}---\n", publication, "Ours.")
    assert configs(card) == expected
    entry = next(config for config in header(card)["configs"] if config["config_name"] == "text")
    assert entry["data_files"] == [{"split": "train", "path": "text/train-*.parquet"}]
    assert "data_dir" not in entry


@pytest.mark.parametrize("as_list", [True, False])
def test_sizes_of_other_configs_stay_and_old_ones_of_ours_go(publication, as_list):
    other = {"config_name": "raw", "dataset_size": 7, "splits": [{"name": "train", "num_examples": 3}]}
    old = {**other, "config_name": "text", "description": "stale"}
    card = merged_card(
        f"---\n{yaml.safe_dump({'dataset_info': [old, other] if as_list else other})}---\n", publication, "Ours."
    )
    infos = {info["config_name"]: info for info in header(card)["dataset_info"]}
    assert infos["raw"] == other
    assert infos["text"]["splits"][0]["num_examples"] == 2
    assert "description" not in infos["text"]


def test_files_that_were_found_by_their_names_are_named_now(publication, tmp_path):
    card = merged_card(None, publication, "Ours.", other_files=["data/train.csv", "data/test.csv", ".gitattributes"])
    assert configs(card) == {"default": False, "text": False}
    (tmp_path / "README.md").write_text(card)
    for path in ("data/train.csv", "data/test.csv"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("a\n1\n")
    assert list(load_dataset(str(tmp_path))) == ["train", "test"]  # as before it was published to


@pytest.mark.parametrize("existing", ["---\n[1, 2]\n---\n", "---\na: [\n---\n", "---\nconfigs: [{x: 1}]\n---\n"])
def test_a_broken_header_is_refused(publication, existing):
    with pytest.raises(OutputError, match="cannot be read"):
        merged_card(existing, publication, "Ours.")


def test_rows_cannot_end_our_section(tmp_path):
    texts = ["<!-- end of text -->\n```\n# No heading", "x" * 5000, *"abcdef"]
    publication = make_publication(tmp_path / "texts", texts)
    card = merged_card(None, publication, section(publication, "me/x", None))
    assert card.count("<!-- end of text -->") == 1
    rows = [json.loads(line) for line in card.split("```json\n")[1].split("\n```")[0].splitlines()]
    assert [row["text"] for row in rows] == [texts[0], "x" * 600 + "…", "a", "b", "c"]


def test_another_name_on_the_hub(tmp_path):
    publication = make_publication(tmp_path / "texts", config_name="seed1")
    card = merged_card(None, publication, section(publication, "me/x", None))
    assert configs(card) == {"seed1": True}
    assert header(card)["configs"][0]["data_files"][0]["path"] == "seed1/train-*.parquet"
    assert "`seed1/recipe.json`" in card
    assert list(publication.documents) == ["seed1/recipe.json"]
