"""Builders for the layouts that the paper's authors released: JSON lines, read as a stream, with our columns."""

import abc
import glob
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO
from urllib.parse import quote

import datasets
import pyarrow as pa
from datasets import Features, Value
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError

from ipt_datasets.corpus.lines import format_of
from ipt_datasets.corpus.read_collection import read_collection
from ipt_datasets.errors import InputError, one_line
from ipt_datasets.schema import SYNTHESIS_FEATURES

RELEASED = (
    "instruction-pretrain/general-instruction-augmented-corpora",
    "instruction-pretrain/medicine-instruction-augmented-corpora",
)
"""The instruction-augmented corpora that the paper's authors released."""

FILES = "**/*.jsonl*"
"""The shards below a folder; the released folders `json/` beside them hold nothing but lists of their names."""

BYTES_A_READ = 1 << 20
ROWS_A_TABLE = 512
LINES_TO_JUDGE_BY = 10

_log = logging.getLogger(__name__)


class ReleasedBuilder(datasets.ArrowBasedBuilder, abc.ABC):  # type: ignore[misc]
    """What the builders of the released layouts share: finding the files and reading their lines.

    Lines that cannot be read are left out and counted: one warning a file, with the first of them. A file of which none
    of the first lines can be read is another kind of file and an error.

    Args:
        data_files: a Hub id, a folder (also `hf://...`), files, globs, or a list of such; a dict of them by split.
        config_name: one of the folders in the folder or repository.
        revision: branch, tag or commit of a Hub id.
        options: of `datasets.DatasetBuilder`, e.g. `cache_dir` and `token`.

    Raises:
        InputError: there are no such files; later, in reading, a file cannot be read or is not in this layout.
    """

    # What download_and_prepare keeps is found again by it: it rises with every change of what a line becomes.
    VERSION = datasets.Version("1.0.0")
    columns: Features
    layout: str

    def __init__(
        self,
        data_files: str | Sequence[str] | Mapping[str, str | Sequence[str]],
        *,
        config_name: str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> None:
        given = data_files if isinstance(data_files, Mapping) else {"train": data_files}
        patterns = {
            split: [_pattern(name, config_name, revision) for name in ([names] if isinstance(names, str) else names)]
            for split, names in given.items()
        }
        options.setdefault("dataset_name", type(self).__name__)
        try:
            super().__init__(data_files=patterns, config_name=config_name, **options)
        except FileNotFoundError as error:
            raise InputError(f"{data_files} cannot be found: {one_line(error)}") from error
        for split, files in self.config.data_files.items():
            if not files:
                wanted = " or ".join(patterns[split]) or "in an empty list"
                raise InputError(
                    f"there is no file {wanted}, expected .jsonl files; check the name, and the token of a private one"
                )

    @abc.abstractmethod
    def rows_of(self, line: Any) -> tuple[list[dict[str, Any]], list[str]]:
        """Give the rows of a line, and what in it cannot be read; never raises."""

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """As in `datasets`, with errors of ours as they are."""
        try:
            super().download_and_prepare(*args, **kwargs)
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, InputError):
                raise error.__cause__ from None
            raise

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.columns)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        dl_manager.download_config.extract_on_the_fly = True
        files = dl_manager.extract(dl_manager.download(self.config.data_files))
        return [
            datasets.SplitGenerator(
                name=split, gen_kwargs={"files": list(of_split), "names": list(self.config.data_files[split])}
            )
            for split, of_split in files.items()
        ]

    def _generate_shards(self, files: list[str], names: list[str]) -> Iterator[str]:
        yield from names

    def _generate_tables(self, files: list[str], names: list[str]) -> Iterator[tuple[Key, pa.Table]]:
        schema = self.columns.arrow_schema
        for shard, (file, name) in enumerate(zip(files, names, strict=True)):
            rows: list[dict[str, Any]] = []
            number = 0
            for of_line in self._read(file, name):
                rows += of_line
                if len(rows) >= ROWS_A_TABLE:
                    yield Key(shard, number), pa.Table.from_pylist(rows, schema=schema)
                    rows, number = [], number + 1
            if rows:
                yield Key(shard, number), pa.Table.from_pylist(rows, schema=schema)

    def _read(self, file: str, name: str) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of each line of a file."""
        n_problems = n_fitting = 0
        first = ""
        number = 0
        for number, line in enumerate(_lines(file, name), start=1):
            if not line.strip():
                continue
            rows, problems = self._read_line(line, is_first=number == 1)
            if problems:
                first = first or f"line {number}: {problems[0]}"
                n_problems += len(problems)
            n_fitting += bool(rows or not problems)
            if not n_fitting and number >= LINES_TO_JUDGE_BY:
                break
            yield rows
        if n_problems and not n_fitting:
            raise InputError(f"{name}, {first}; expected {self.layout}")
        if n_problems:
            _log.warning("%s: %s of its lines and entries cannot be read: %s", name, f"{n_problems:,}", first)

    def _read_line(self, line: bytes, is_first: bool) -> tuple[list[dict[str, Any]], list[str]]:
        try:
            return self.rows_of(json.loads(line.decode("utf-8-sig" if is_first else "utf-8")))
        except UnicodeDecodeError as error:
            return [], [f"not UTF-8 (byte 0x{line[error.start]:02x})"]
        except json.JSONDecodeError as error:
            return [], [f"not JSON ({error.msg}, character {error.colno})"]
        except (ValueError, RecursionError) as error:
            return [], [f"not JSON that can be read ({one_line(error)})"]


class InstructionAugmentedCorpora(ReleasedBuilder):
    """General- and medicine-instruction-augmented-corpora: a line a chain or more, `part-*/shard/*.jsonl`.

    Each line is a list of `{"context", "QA_list", "inherit_from_prev"}`. The rows are those that `ipt augment` writes
    as its config `pairs`, one a raw text, so all that reads it reads them. The texts of a chain stand side by side, in
    one line; a text without pairs is kept with the status `no_pairs`. The completions were not released: those of the
    shots are empty, their tokens 0. A text with a lone surrogate, which Arrow cannot hold, is null and `not_unicode`.

        builder = InstructionAugmentedCorpora(
            "instruction-pretrain/medicine-instruction-augmented-corpora", config_name="part-0"
        )
        pairs = builder.as_streaming_dataset(split="train")  # or: builder.download_and_prepare(); builder.as_dataset()
        pairs.push_to_hub("me/medicine-pairs", config_name="pairs")

    From the repository that the last line makes, as from the released one, `ipt templatize SOURCE OUTPUT` renders
    training texts. With `pairs.map(templatize_batch, batched=True)`, a chain that the border of a batch cuts makes two
    texts.
    """

    columns = Features({"text": Value("string"), **SYNTHESIS_FEATURES})
    layout = "JSON lines, each a list of objects with 'context' and 'QA_list'"

    def rows_of(self, line: Any) -> tuple[list[dict[str, Any]], list[str]]:
        """Give a row a text."""
        return read_collection(line)


def open_released(
    source: str,
    *,
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    builder_class: type[ReleasedBuilder] = InstructionAugmentedCorpora,
) -> Any:
    """Open what was released in the layout that a builder reads; the other arguments are those of the builder.

    Returns:
        A `datasets.IterableDataset`; what breaks while it is read is an `InputError`.

    Raises:
        InputError: there is no such source or split.
    """
    try:
        builder = builder_class(source, config_name=config_name, revision=revision)
        if split not in builder.config.data_files:
            raise InputError(f"{source} has no split {split!r}: in this layout there is only 'train'")
        return builder.as_streaming_dataset(split=split)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{source} cannot be opened: {one_line(error)}") from error


def _pattern(name: str, folder: str | None, revision: str | None) -> str:
    """Give the glob of the files that a name stands for."""
    path = os.path.expanduser(name)
    is_remote = "://" in path
    below = f"{glob.escape(folder)}/{FILES}" if folder else FILES
    if not is_remote and os.path.isdir(path):
        pattern = f"{glob.escape(os.path.abspath(path))}/{below}"
    elif not is_remote and os.path.isfile(path):
        pattern = glob.escape(os.path.abspath(path))
    elif glob.has_magic(path) or format_of(path) or (not is_remote and (path.count("/") != 1 or path[0] in "./~")):
        pattern = path
    elif is_remote:
        return f"{path.rstrip('/')}/{below}"
    else:
        at = f"@{quote(revision, safe='')}" if revision else ""
        return f"hf://datasets/{path}{at}/{below}"
    if revision:
        raise InputError(
            f"{name} is not a Hub id, revision={revision!r} needs one: leave it out, or give hf://...@REVISION"
        )
    if folder and not pattern.endswith(below):
        raise InputError(f"{name} is not a folder, it has no config {folder!r}: leave it out")
    return pattern


def _lines(file: str, name: str) -> Iterator[bytes]:
    """Yield the lines of a file, without their ends; `open` is what `datasets` puts in its place, for any address."""
    number, rest = 0, b""
    try:
        with open(file, "rb") as stream:
            for piece in _pieces(stream):
                *whole, rest = (rest + piece).split(b"\n")
                number += len(whole)
                yield from whole
    except Exception as error:
        raise InputError(f"{name} cannot be read behind line {number}: {one_line(error)}") from error
    if rest:
        yield rest


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    # Only `read` is asked again by datasets when a connection breaks.
    while piece := stream.read(BYTES_A_READ):
        yield piece
