"""`convert`: what the paper's authors released becomes a corpus of ours, streaming, and goes on where it stopped."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ipt_datasets.corpus.builders import InstructionAugmentedCorpora, ReleasedBuilder, open_released
from ipt_datasets.corpus.card import PAPER, corpus_header
from ipt_datasets.corpus.covered import peek
from ipt_datasets.corpus.folder import CARD, OutputFolder
from ipt_datasets.corpus.share import ROWS_PER_SHARD
from ipt_datasets.corpus.templatize import whole_chains
from ipt_datasets.errors import InputError, OutputError, RecipeError
from ipt_datasets.schema import STATUSES, TEXT_FEATURES
from ipt_datasets.templating.templatizer import Templatizer


@dataclass(slots=True)
class Converted:
    """What `convert` made.

    Attributes:
        path: the folder.
        rows: of the config `pairs`, one a raw text.
        pairs: in these rows.
        statuses: rows by status; empty for task rows, which have none.
        texts: training texts, 0 where none were asked for.
    """

    path: Path
    rows: int = 0
    pairs: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    texts: int = 0


def convert(
    source: str,
    output: str | Path,
    templatizer: Templatizer | None = None,
    *,
    builder_class: type[ReleasedBuilder] = InstructionAugmentedCorpora,
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: bool = True,
) -> Converted:
    """Write the rows of a released corpus as the config `pairs` of a folder, and training texts beside them.

    Args:
        source: a Hub id, a folder or files, see `ReleasedBuilder`.
        output: the folder to write.
        templatizer: renders the config `text`; None: there is none.
        builder_class: which layout the source has.
        split: of the source.
        config_name: one of its folders, such as "part-0"; None: all.
        revision: of a Hub id.
        resume: go on where a run stopped; start where there is nothing yet.
        overwrite: replace what an earlier run wrote.
        rows_per_shard: raw texts a shard; a shard ends where a chain does.
        progress: show a progress bar.

    Raises:
        InputError: the source cannot be read, or is in another layout.
        OutputError: the folder is in use, not empty, or holds another run.
        RecipeError: training texts are asked for of rows that have no chains.
    """
    opened = open_released(source, split=split, config_name=config_name, revision=revision, builder_class=builder_class)
    if templatizer and "shots" not in opened.features:
        raise RecipeError(f"{builder_class.__name__} gives task rows, which have no training texts; do not ask for any")
    recipe = {
        "input": {"source": source, "split": split, "config_name": config_name, "revision": revision},
        "layout": builder_class.__name__,
        "texts": asdict(templatizer.recipe) if templatizer else None,
        "package": version("ipt-datasets"),
    }
    with OutputFolder(output) as folder:
        folder.check(recipe, resume=resume, overwrite=overwrite)
        if folder.is_finished and not overwrite:
            return _count(folder)
        done = 0 if overwrite else folder.rows_done()
        has_more, rows = peek(_from_row(iter(opened), done, source))
        if not has_more and not done:
            raise InputError(f"{source} holds no rows")
        folder.begin(recipe, overwrite=overwrite)
        first = len(folder.shards("pairs"))
        folder.drop_shards("text", first)  # a kill came between the two shards of a stretch
        with tqdm(initial=done, unit=" texts", disable=not progress) as bar:
            for number, stretch in enumerate(whole_chains(rows, rows_per_shard), start=first):
                columns = {name: [row[name] for row in stretch] for name in opened.features}
                if templatizer:
                    ids = map(str, range(done, done + len(stretch)))
                    folder.write_shard("text", number, templatizer({**columns, "id": [*ids]}), TEXT_FEATURES)
                folder.write_shard("pairs", number, columns, opened.features)
                done += len(stretch)
                bar.update(len(stretch))
        made = _count(folder)
        names = ("text", "pairs") if templatizer else ("pairs",)
        folder.write_text(CARD, _card(recipe, made, {name: folder.digest(name) for name in names}))
    return made


def _from_row(rows: Iterator[dict[str, Any]], first: int, source: str) -> Iterator[dict[str, Any]]:
    """Leave out rows that are written already.

    Raises:
        OutputError: there are not that many.
    """
    if (read := sum(1 for _ in islice(rows, first))) < first:
        raise OutputError(f"{source} has {read:,} rows, and {first:,} of them are written already; use --overwrite")
    return rows


def _count(folder: OutputFolder) -> Converted:
    counted = Converted(folder.path)
    for shard in folder.shards("pairs"):
        with pq.ParquetFile(shard) as file:
            names = [name for name in ("pairs", "status") if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=1024, columns=names):
                counted.rows += batch.num_rows
                counted.pairs += pc.sum(pc.list_value_length(batch.column("pairs"))).as_py() or 0
                if "status" in names:
                    counted.statuses.update(batch.column("status").to_pylist())
    counted.texts = sum(pq.read_metadata(shard).num_rows for shard in folder.shards("text"))
    return counted


def _card(recipe: Mapping[str, Any], made: Converted, digests: Mapping[str, str]) -> str:
    given = recipe["input"]
    part = f", its folder `{given['config_name']}`" if given["config_name"] else ""
    statuses = "".join(f"| {name}: {STATUSES[name]} | {n:,} |\n" for name, n in made.statuses.most_common())
    texts = (
        recipe["texts"]
        and f"""The config `text` holds {made.texts:,} training texts, rendered with templates drawn by seed
{recipe["texts"]["seed"]}. """
    )
    return f"""{corpus_header(digests)}

# Released instruction-response pairs, in the columns of ipt-datasets

{made.pairs:,} pairs about {made.rows:,} raw texts, which the authors of [Instruction Pre-Training]({PAPER}) released as
`{given["source"]}`{part}. `ipt-datasets` {recipe["package"]} gave them its columns (layout `{recipe["layout"]}`); no
model was asked. {texts or ""}The recipe is in `recipe.json`.

| raw texts | {made.rows:,} |
|---|--:|
{statuses}"""
