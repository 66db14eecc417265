"""The input of `augment`: opened, checked, and read from its first row as often as it is asked for."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from datasets import Features

from ipt_datasets.corpus.readers import find_builder
from ipt_datasets.corpus.source import check_text_column, iter_rows, known_rows, open_source
from ipt_datasets.errors import InputError, RecipeError
from ipt_datasets.synthesis.synthesizer import ADDED_COLUMNS


def check_fraction(fraction: float) -> None:
    """Make sure that a share of the texts can be drawn.

    Raises:
        RecipeError: it is none of them, or more than all.
    """
    if not 0 < fraction <= 1:
        raise RecipeError(f"fraction={fraction!r}: expected a number above 0 and at most 1")


class Input:
    """Raw texts that synthesis can be asked about.

    Args:
        given: what a recipe says of its input: source, split, config_name, revision, fraction, shuffle, limit, seed,
            rows_per_shard.
        text_column: the column that holds the raw texts.

    Raises:
        InputError: the source cannot be read, has no such text column, or has columns that synthesis adds.
        RecipeError: a number is out of range.
    """

    def __init__(self, given: Mapping[str, Any], text_column: str) -> None:
        check_fraction(given["fraction"])
        for name in ("limit", "rows_per_shard"):
            if given[name] is not None and given[name] < 1:
                raise RecipeError(f"{name}={given[name]!r}: expected a whole number of at least 1")
        self.given = dict(given)
        self.source = str(given["source"])
        where = {name: given[name] for name in ("split", "config_name", "revision")}
        opened = open_source(self.source, **where, streaming=not given["shuffle"])
        check_text_column(opened, text_column, self.source)
        self.features: Features = opened.features
        if clash := [name for name in ADDED_COLUMNS if name in self.features]:
            raise InputError(
                f"{self.source} already has columns named {', '.join(clash)}, which synthesis adds; "
                "rename or remove them"
            )
        total = known_rows(opened, self.source)
        self.total = total if given["limit"] is None else min(given["limit"], total or given["limit"])
        """How many rows there are, for showing how far a run is: what a data set says of itself may be wrong."""
        self._rows = opened.shuffle(seed=given["seed"]) if given["shuffle"] else opened

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read from the first row on, up to the limit.

        Raises:
            InputError: a file cannot be read on.
        """
        return islice(iter_rows(self._rows, self.source), self.given["limit"])

    def state(self) -> str:
        """Name the files behind the source: those of a Hub id with their commit, others with their sizes.

        Returns:
            16 hexadecimal digits; the same on every machine that sees the same files.
        """
        builder = find_builder(self.source, self.given["config_name"], self.given["revision"])
        files = [str(file) for of_split in (builder.config.data_files or {}).values() for file in of_split]
        told = [f"{os.path.basename(one)} {os.path.getsize(one)}" if os.path.isfile(one) else one for one in files]
        return hashlib.sha256("\n".join(sorted(told)).encode()).hexdigest()[:16]
