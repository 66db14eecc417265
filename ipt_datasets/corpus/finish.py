"""The end of an augmented corpus: its shards are counted, and its card says what they hold; and that it still does."""

from collections.abc import Mapping
from typing import Any

from ipt_datasets.corpus.card import augmented_card
from ipt_datasets.corpus.counts import Counts, count_shards
from ipt_datasets.corpus.folder import CARD, OutputFolder
from ipt_datasets.errors import OutputError


def finish_folder(folder: OutputFolder, recipe: Mapping[str, Any], n_parts: int = 1) -> Counts:
    """Count a folder whose shards are all there, and write its card, without which it is not finished.

    Args:
        folder: of a run.
        recipe: see `run_recipe`.
        n_parts: how many jobs wrote it.
    """
    counts = count_shards(folder.shards("pairs"), folder.shards("text"))
    digests = {name: folder.digest(name) for name in ("text", "pairs")}
    folder.write_text(CARD, augmented_card(recipe, counts, digests, n_parts))
    return counts


def verify_folder(folder: OutputFolder) -> Counts:
    """Check a finished folder: every shard can be read, and its texts and pairs are complete."""
    try:
        counts = count_shards(folder.shards("pairs"), folder.shards("text"))
    except Exception as error:
        raise OutputError(f"{folder.path} is damaged: {error}; write it anew with --overwrite") from error
    card = (folder.path / CARD).read_text("utf-8")
    if f"| raw texts | {counts.rows:,} |" not in card or f"\n{counts.texts:,} training texts." not in card:
        raise OutputError(
            f"{folder.path} holds {counts.rows:,} raw texts and {counts.texts:,} training texts, its card says "
            "otherwise; write it anew with --overwrite"
        )
    return counts
