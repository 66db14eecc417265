"""Writing rows as pairs of shards, and the figures of a progress bar while they are made."""

import time
from typing import Any

from datasets import Features

from ipt_datasets.corpus.folder import OutputFolder
from ipt_datasets.corpus.journal import Journal
from ipt_datasets.corpus.share import Share
from ipt_datasets.schema import SYNTHESIS_FEATURES, TEXT_FEATURES, TypedColumn
from ipt_datasets.synthesis.chains import Shot
from ipt_datasets.synthesis.dealing import SynthesizedRow
from ipt_datasets.templating.templatizer import Templatizer

SHARD_CHARACTERS = 200_000_000
"""A shard is closed early when its raw texts reach this length, so that long documents do not fill the memory."""


class ShardWriter:
    """Collects rows and writes them as shards: one a block, or several where its texts are long.

    Args:
        folder: where they go.
        journal: forgets what a shard holds.
        templatizer: renders the texts.
        features: of the config `pairs`.
        share: of the input that is written here.
        first_row: the first row of the share that no shard holds yet.
    """

    def __init__(
        self,
        folder: OutputFolder,
        journal: Journal,
        templatizer: Templatizer,
        features: Features,
        share: Share,
        first_row: int,
    ) -> None:
        self._folder, self._journal, self._templatizer, self._features = folder, journal, templatizer, features
        self._share = share
        self._number = len(folder.shards("pairs"))
        self._first_row = first_row
        self._rows: list[dict[str, Any]] = []
        self._characters = 0
        folder.drop_shards("text", self._number)  # a kill came between the two shards of a stretch

    def add(self, row: dict[str, Any], written: SynthesizedRow) -> None:
        """Take the next row and what was written about it."""
        self._rows.append({**row, **written.columns()})
        self._characters += len(row[self._templatizer.recipe.text_column] or "")
        ends_block = (self._first_row + len(self._rows)) % self._share.block_rows == 0
        if written.ends_chain and (ends_block or self._characters >= SHARD_CHARACTERS):
            self.flush()

    def flush(self) -> None:
        """Write what was collected, if anything was."""
        if not self._rows:
            return
        columns = {name: [row[name] for row in self._rows] for name in self._features}
        columns |= {name: TypedColumn(columns[name], feature) for name, feature in SYNTHESIS_FEATURES.items()}
        numbers = (self._share.input_row(self._first_row + at) for at in range(len(self._rows)))
        ids = columns.get("id", numbers)
        texts = self._templatizer({**columns, "id": [str(id_) for id_ in ids]})
        self._folder.write_shard("text", self._number, texts, TEXT_FEATURES)
        self._folder.write_shard("pairs", self._number, columns, self._features)
        self._number += 1
        self._first_row += len(self._rows)
        self._journal.forget(self._first_row)
        self._rows, self._characters = [], 0


class Meter:
    """Keeps the progress bar's figures, shot by shot: pairs, rejects, tokens a second in and out.

    Args:
        bar: of tqdm.
    """

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._started = time.monotonic()
        self._pairs = self._rejects = self._read = self._wrote = 0

    def add(self, shot: Shot) -> None:
        """Count a shot."""
        self._pairs += len(shot.pairs)
        self._rejects += len(shot.rejected)
        self._read += shot.prompt_tokens
        self._wrote += shot.completion_tokens
        if self._bar.disable:
            return
        figures = f"pairs={self._pairs:,}, rejects={self._rejects:,}"
        if (seconds := time.monotonic() - self._started) > 1:
            figures += f", tok/s in={self._read / seconds:,.0f}, out={self._wrote / seconds:,.0f}"
        self._bar.set_postfix_str(figures, refresh=False)
        self._bar.update(0)
