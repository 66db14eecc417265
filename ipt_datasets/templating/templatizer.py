"""The `Templatizer`: what `Dataset.map` calls to turn pairs into texts."""

import functools
import hashlib
import importlib.metadata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ipt_datasets.errors import InputError, RecipeError
from ipt_datasets.schema import TEXT_FEATURES, TypedColumn
from ipt_datasets.templating.documents import Document, Row, read_documents
from ipt_datasets.templating.draw import Draw
from ipt_datasets.templating.library import load_library
from ipt_datasets.templating.render import Plan, plan, write
from ipt_datasets.templating.template_file import frame_weights_problem

TEMPLATING_VERSION = 1
"""Goes up with every change of code or data files that changes a byte of any text."""


@functools.cache
def _package_version() -> str:
    return importlib.metadata.version("ipt-datasets")


@dataclass(frozen=True)
class TemplatingRecipe:
    """Everything that decides the texts, besides the pairs; `dataclasses.asdict` gives it as JSON.

    Attributes:
        version: of the package, and of its templating.
        seed: of all choices.
        text_column: the raw texts.
        id_column: what `rows` names its rows by.
        frame_weights: by frame, None for those of the template files.
        templates: SHA-256 of each of the user's template files, in their order.
    """

    version: str
    seed: int
    text_column: str
    id_column: str
    frame_weights: dict[str, float] | None
    templates: tuple[str, ...]


class Templatizer:
    """Renders the pairs of a batch through templates: shots of one chain make one text.

    Callable on a batch with the columns that `Synthesizer` adds (`dict[str, list]`, or a `pyarrow.Table`), for
    `pairs.map(templatizer, batched=True, remove_columns=pairs.column_names)`. It gives the columns of
    `schema.TEXT_FEATURES`, as many rows as there are texts:

    - shots of one chain make one text, in the order of their positions; a new one begins where the position does not
      rise. If a chain's beginning is not in the batch, its text is shorter and one warning is given;
    - a shot without pairs is a plain text of its own, with `n_pairs` 0 and `template` "plain"; so is a row without any
      pair, whole;
    - the shots of a row show its whole text, byte for byte: what no window covers is shown with the window before it;
    - a text that is null or blank gives nothing, nor does one that holds a lone surrogate, which Arrow cannot store.

    `template` names the frames, joined by "+" where the shots of a chain have different ones; `chain` is the chain's
    id, "" for rows without shots; `rows` holds the ids of the rows a text was made from, or their index in the batch
    where there is no `id_column`.

    Same input and seed, same bytes; the input is never changed. Each choice is drawn for itself from a keyed hash of
    seed, chain and place in the chain, so a text does not depend on what else is in the batch.

    Args:
        seed: another seed gives every text another surface.
        text_column: the raw texts.
        templates: files added to the shipped library; `template_file` says how they look.
        frame_weights: how often each frame is used, relative to the others; frames that are not named are not used.
            A shot that has too few pairs for all of them is shown as "classic".
        id_column: ids of the rows, any type.

    Raises:
        RecipeError: a setting is out of range.
        InputError: a file of `templates` cannot be read, or an entry in it is not as it should be.
    """

    def __init__(
        self,
        seed: int = 0,
        text_column: str = "text",
        templates: str | Path | Sequence[str | Path] = (),
        frame_weights: Mapping[str, float] | None = None,
        id_column: str = "id",
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise RecipeError(f"seed must be an integer, it is {seed!r}")
        if frame_weights is not None and (problem := frame_weights_problem(frame_weights)):
            raise RecipeError(f"frame_weights {problem}")
        paths = [templates] if isinstance(templates, str | Path) else list(templates)
        files = tuple((Path(path).name, _read_file(Path(path))) for path in paths)
        if files:
            load_library(files)
        weights = None if frame_weights is None else {name: float(w) for name, w in frame_weights.items()}
        # Contents alone: a file that moves is the same file.
        self._set_up(seed, text_column, id_column, weights, tuple(content for _, content in files))

    def _set_up(
        self,
        seed: int,
        text_column: str,
        id_column: str,
        frame_weights: dict[str, float] | None,
        files: tuple[str, ...],
    ) -> None:
        version = f"{_package_version()}+templating.{TEMPLATING_VERSION}"
        hashes = tuple(hashlib.sha256(content.encode()).hexdigest() for content in files)
        self.recipe = TemplatingRecipe(version, seed, text_column, id_column, frame_weights, hashes)
        self._files = tuple((f"templates[{at}]", content) for at, content in enumerate(files))
        self._draw = Draw.seeded(seed)
        self._warned = False

    @property
    def features(self) -> Any:
        """The columns that a call gives."""
        return TEXT_FEATURES

    def __call__(self, batch: Any) -> Any:
        """Give the texts of a batch.

        Args:
            batch: a mapping of columns, or a `pyarrow.Table`.

        Returns:
            A dict of the columns of `features`, or a table of them for a table.

        Raises:
            InputError: columns are missing, or the call was made row by row.
            RowError: a row's pairs and shots do not belong together (an `InputError` and a `ValueError`).
        """
        if isinstance(batch, pa.Table):
            self._check(batch.column_names)
            needed = [name for name in (*self.columns, self.recipe.id_column) if name in batch.column_names]
            texts = self(batch.select(needed).to_pydict())
            return pa.table({name: pa.array(texts[name]) for name in TEXT_FEATURES}, schema=TEXT_FEATURES.arrow_schema)
        columns: dict[str, list[Any]] = {name: [] for name in TEXT_FEATURES}
        for document, surface in self.plans(batch):
            columns["text"].append(write(surface))
            columns["n_pairs"].append(sum(len(shot.pairs) for shot in document.shots))
            columns["template"].append("+".join(dict.fromkeys(shot.frame for shot in surface.shots)))
            columns["chain"].append(document.chain)
            columns["rows"].append(list(dict.fromkeys(shot.row for shot in document.shots)))
        return {name: TypedColumn(columns[name], feature) for name, feature in TEXT_FEATURES.items()}

    def plans(self, batch: Mapping[str, Sequence[Any]]) -> Iterator[tuple[Document, Plan]]:
        """Give the documents of a batch with what was drawn for them, as the diversity report wants them."""
        recipe = self.recipe
        library = load_library(self._files)
        weights = recipe.frame_weights or library.frame_weights
        for document in read_documents(self._rows(batch), self._warn):
            yield document, plan(document, library, self._draw, weights)

    @property
    def columns(self) -> list[str]:
        """The columns that a batch must have; that of the ids may be missing."""
        return [self.recipe.text_column, "pairs", "shots"]

    def _check(self, given: Sequence[str]) -> None:
        if missing := [name for name in self.columns if name not in given]:
            raise InputError(
                f"the batch has no column {', '.join(missing)} (it has {', '.join(given) or 'none'}): a Templatizer "
                f"takes what a Synthesizer gives, and the raw texts in text_column={self.recipe.text_column!r}"
            )

    def _rows(self, batch: Mapping[str, Sequence[Any]]) -> list[Row]:
        self._check(list(batch))
        texts, pairs, shots = (batch[name] for name in self.columns)
        if texts is None or isinstance(texts, str):
            raise InputError("a Templatizer takes batches, it was called on one row: use map(..., batched=True)")
        ids = batch[self.recipe.id_column] if self.recipe.id_column in batch else range(len(texts))
        return [
            Row(str(at if row[0] is None else row[0]), *row[1:])
            for at, row in enumerate(zip(ids, texts, pairs, shots, strict=True))
        ]

    def _warn(self, chain: str, position: int) -> None:
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"a chain's beginning is not in the batch (chain {chain!r} begins at position {position}), so its text is "
            "shorter than the chain: templatize before rows are filtered or shuffled, with a batch_size that keeps "
            "chains whole",
            stacklevel=5,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"recipe": self.recipe, "files": tuple(content for _, content in self._files)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        recipe = state["recipe"]
        self._set_up(recipe.seed, recipe.text_column, recipe.id_column, recipe.frame_weights, state["files"])

    def __repr__(self) -> str:
        return f"Templatizer({self.recipe})"


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"templates file {path} cannot be read as UTF-8 text: {error}") from None


templatize_batch = Templatizer()
"""A `Templatizer` with default settings, for `pairs.map(templatize_batch, batched=True, ...)`."""
