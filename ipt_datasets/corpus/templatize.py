"""`templatize`: render the pairs of a corpus anew. Pure and seeded: no model, no cost, another seed another surface."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ipt_datasets.corpus.builders import RELEASED, open_released
from ipt_datasets.corpus.card import templatized_card
from ipt_datasets.corpus.folder import CARD, OutputFolder
from ipt_datasets.corpus.share import ROWS_PER_SHARD
from ipt_datasets.corpus.source import iter_rows, known_rows, open_source
from ipt_datasets.errors import InputError
from ipt_datasets.schema import TEXT_FEATURES
from ipt_datasets.templating.templatizer import Templatizer


@dataclass(frozen=True, slots=True)
class Templatized:
    """What `templatize` made: the folder, its training texts, and the pairs they show."""

    path: Path
    texts: int
    pairs: int


def templatize(
    source: str,
    output: str | Path,
    templatizer: Templatizer | None = None,
    *,
    split: str = "train",
    config_name: str | None = "pairs",
    revision: str | None = None,
    released: bool = False,
    overwrite: bool = False,
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: bool = True,
) -> Templatized:
    """Render the pairs of a corpus as training texts, with other draws than before.

    Args:
        source: a folder that `augment` wrote, its Hub id, or a file with the columns of `schema.SYNTHESIS_FEATURES`; or
            one of the corpora that the paper's authors released (`corpus.builders.RELEASED`).
        output: the folder to write; it holds the config `text`.
        templatizer: decides the surface; None: the shipped templates with seed 1 (`augment` uses 0).
        split: of the source.
        config_name: of the source, where it is a folder or a Hub id; for a released corpus one of its folders, such as
            "part-0", all of them for "pairs".
        revision: of the source, where it is a Hub id.
        released: the source is a copy of a released corpus, or anything in the layout that
            `corpus.builders.InstructionAugmentedCorpora` reads.
        overwrite: replace what an earlier run wrote.
        rows_per_shard: raw texts a shard; a shard ends where a chain does.
        progress: show a progress bar.

    Raises:
        InputError: the source cannot be read or lacks the columns.
        OutputError: the folder is in use or not empty.
    """
    templatizer = templatizer or Templatizer(seed=1)
    is_file = Path(source).is_file() or any(mark in source for mark in "*?[")
    released = released or source in RELEASED
    if released:
        part = None if config_name == "pairs" else config_name
        opened = open_released(source, split=split, config_name=part, revision=revision)
    else:
        opened = open_source(source, split=split, config_name=None if is_file else config_name, revision=revision)
    rows = iter(opened) if released else iter_rows(opened, source)
    for name in (templatizer.recipe.text_column, "pairs", "shots"):
        if name not in opened.features:
            raise InputError(
                f"{source} has no column {name!r} (its columns: {', '.join(opened.features)}); expected what "
                "`ipt augment` writes as its config `pairs`"
            )
    first = next(rows, None)
    if first is None:
        raise InputError(f"{source} holds no rows")
    recipe = {
        "input": {
            "source": source,
            "split": split,
            "config_name": config_name,
            "revision": revision,
            "released": released,
        },
        "templating": asdict(templatizer.recipe),
        "package": version("ipt-datasets"),
    }
    n_texts = n_pairs = first_row = 0
    with (
        OutputFolder(output) as folder,
        tqdm(total=None if released else known_rows(opened, source), unit=" texts", disable=not progress) as bar,
    ):
        folder.check(recipe, overwrite=overwrite)
        folder.begin(recipe, overwrite=overwrite)
        for number, stretch in enumerate(whole_chains(chain([first], rows), rows_per_shard)):
            columns = {name: [row[name] for row in stretch] for name in opened.features}
            ids = columns.get("id", range(first_row, first_row + len(stretch)))
            texts = templatizer({**columns, "id": [str(id_) for id_ in ids]})
            folder.write_shard("text", number, texts, TEXT_FEATURES)
            n_texts += len(texts["text"])
            n_pairs += sum(texts["n_pairs"])
            first_row += len(stretch)
            bar.update(len(stretch))
        folder.write_text(CARD, templatized_card(recipe, n_texts, n_pairs, {"text": folder.digest("text")}))
    return Templatized(folder.path, n_texts, n_pairs)


def whole_chains(rows: Iterable[dict[str, Any]], least: int) -> Iterator[list[dict[str, Any]]]:
    """Cut a stream of rows into stretches of at least `least` rows that end where a chain does."""
    stretch: list[dict[str, Any]] = []
    last_chain = None
    for row in rows:
        shots = row.get("shots") or []
        if len(stretch) >= least and not (shots and shots[0]["chain"] == last_chain):
            yield stretch
            stretch = []
        stretch.append(row)
        last_chain = shots[-1]["chain"] if shots else last_chain
    if stretch:
        yield stretch
