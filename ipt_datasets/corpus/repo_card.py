"""The card of a repository: what a person and other publications wrote there stays, ours is put in or replaced."""

import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets.data_files import EmptyDatasetError, get_data_patterns
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard

from ipt_datasets.corpus.publication import Publication
from ipt_datasets.errors import OutputError, one_line

_BLANK = "---\n{}\n---\n"
_HAS_HEADER = re.compile(r"\s*---\s*\n")


def merged_card(
    existing: str | None,
    publication: Publication,
    section: str,
    *,
    license: str | None = None,  # noqa: A002 (the name that cards give it)
    other_files: Iterable[str] = (),
) -> str:
    """Write the card of a repository that a publication is put into. Merging again changes nothing.

    The header's `configs` and `dataset_info` are replaced for the publication's own configs only, `tags` are joined,
    all else stays as it is. In the text, the section between our comments is replaced, or put at the end.

    Args:
        existing: the repository's README.md; None where it has none.
        publication: what is published.
        section: the text about it, see `provenance.section`.
        license: of the data, for the header; None: what stands there stays.
        other_files: the repository's files that are not the publication's. Where the existing header names no
            configs, these were found by their names; the header then has to name them, or they would be hidden.

    Raises:
        OutputError: the existing header cannot be read.
    """
    newline = "\r\n" if existing and "\r\n" in existing else "\n"
    text = (existing or "").removeprefix("\ufeff")
    try:
        card = DatasetCard(text if _HAS_HEADER.match(text) else _BLANK + text)
        before = _as_entries(card.data.get("configs")) or _found_by_name(other_files)
    except Exception as error:  # a person may have written anything into it
        raise OutputError(
            f"the header of the repository's README.md cannot be read ({one_line(error)}); mend it there, then publish"
        ) from None
    card.data["configs"] = merged_configs(before, publication)
    infos = {config.name: config.info for config in publication.configs}
    _set_infos(card, infos)
    ours = publication.card.data
    for name in ("tags", "task_categories"):
        card.data[name] = list(dict.fromkeys([*(card.data.get(name) or []), *(ours.get(name) or [])]))
    if license:
        card.data["license"] = license
    card.text = _with_section(card.text, section, publication.default, newline)
    return str(card)


def merged_configs(before: list[dict[str, Any]], publication: Publication) -> list[dict[str, Any]]:
    """Put a publication's configs among those that a header names; one of all is the default at most.

    A default that is there stays, be it marked so or called "default"; else it is the publication's own.
    """
    ours = {config.name: dict(config.entry) for config in publication.configs}
    marked = next((entry["config_name"] for entry in before if entry.get("default")), None)
    called_so = any(entry["config_name"] == "default" for entry in before)
    default = marked or (None if called_so else publication.default)
    merged = {entry["config_name"]: entry for entry in before} | ours
    for name, entry in merged.items():
        entry.pop("default", None)
        if name == default:
            entry["default"] = True
    return list(merged.values())


def _as_entries(configs: Any) -> list[dict[str, Any]]:
    entries = [dict(entry) for entry in configs or ()]
    for entry in entries:
        if not isinstance(entry.get("config_name"), str):
            raise ValueError(f"a config without a name: {entry}")
    return entries


def _set_infos(card: DatasetCard, infos: Mapping[str, Any]) -> None:
    """Replace the columns and sizes of some configs; those of others stay."""
    written = card.data.get("dataset_info")
    if isinstance(written, list):  # the library keeps what it knows of a config and adds to it: start afresh
        card.data["dataset_info"] = [entry for entry in written if entry.get("config_name") not in infos]
    elif isinstance(written, dict) and written.get("config_name", "default") in infos:
        card.data.pop("dataset_info")
    DatasetInfosDict(dict(infos)).to_dataset_card_data(card.data)


def _found_by_name(files: Iterable[str]) -> list[dict[str, Any]]:
    """Give the config that `load_dataset` makes of a repository without `configs`: it goes by the files' names."""
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            empty = Path(folder, file)
            empty.parent.mkdir(parents=True, exist_ok=True)
            empty.touch()
        try:
            patterns = get_data_patterns(folder)
        except EmptyDatasetError:
            return []
    data_files = [{"split": str(split), "path": paths} for split, paths in patterns.items()]
    return [{"config_name": "default", "data_files": data_files}]


def _with_section(text: str, section: str, name: str, newline: str) -> str:
    begin, end = (
        f"<!-- ipt publish: {name}, written anew each time; write above or below -->",
        f"<!-- end of {name} -->",
    )
    block = f"{begin}\n\n{section.strip()}\n\n{end}".replace("\n", newline)
    found = re.search(rf"<!-- ipt publish: {re.escape(name)}, .*?<!-- end of {re.escape(name)} -->", text, re.DOTALL)
    if found:
        return text[: found.start()] + block + text[found.end() :]
    before = f"{text.rstrip()}{newline}" if text.strip() else ""
    return f"{before}{newline}{block}{newline}"
