"""`join`: the shards of N jobs become the corpus that one run would have written."""

import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ipt_datasets.corpus.augment import Augmented
from ipt_datasets.corpus.counts import Counts
from ipt_datasets.corpus.finish import finish_folder, verify_folder
from ipt_datasets.corpus.folder import LOCK, RECIPE, SHARDS, OutputFolder, differences, shard_name
from ipt_datasets.corpus.publication import check_digests, open_finished
from ipt_datasets.corpus.reproduce import reproducing_command
from ipt_datasets.corpus.share import Share
from ipt_datasets.durable import TEMPORARY, flush, replacing
from ipt_datasets.errors import OutputError

NAMED = 5
"""So many missing shards a message names."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one job left.

    Attributes:
        share: of the input.
        recipe: of the job, its shard left out.
        state: of the input that the job read, see `Input.state`.
        files: its shards by the input row that each begins with: the name that it has in both configs.
        rows: in all its shards.
    """

    share: Share
    recipe: Mapping[str, Any]
    state: str
    files: Mapping[int, str]
    rows: int


def join(output: str | Path) -> Augmented:
    """Make one corpus of the shards that `augment(..., shard=(I, N))` wrote for every I.

    The corpus has the rows, texts and shards that `augment` of the same input without `shard` writes, byte for byte.
    Shards become part of it as they are, by a hard link where the file system has them. Nothing is changed unless all
    is there and fits; a join that was killed is begun anew by the next, one that is done is checked.

    Args:
        output: the folder that all jobs were given.

    Raises:
        OutputError: shards are missing, unfinished, damaged, in use, of several recipes or inputs, or leave gaps.
    """
    started = time.monotonic()
    if not Path(output).is_dir():
        raise OutputError(f"{output} is no folder; expected the one that `ipt augment INPUT OUTPUT --shard I/N` wrote")
    with OutputFolder(output) as folder:
        return Augmented(folder.path, join_shards(folder), time.monotonic() - started)


def join_shards(folder: OutputFolder) -> Counts:
    """Join, as `join` does, in a folder that is open already."""
    shards = folder.path / SHARDS
    if folder.is_finished:
        counts = verify_folder(folder)
        _remove(shards)
        for leftover in folder.path.glob(f"{TEMPORARY}*"):
            _remove(leftover)
        return counts
    if not shards.is_dir():
        raise OutputError(f"{folder.path} holds no {SHARDS}/; write them with `ipt augment INPUT OUTPUT --shard I/N`")
    there = {entry.name for entry in folder.path.iterdir() if not entry.name.startswith(TEMPORARY)}
    if foreign := sorted(there - {SHARDS, LOCK, RECIPE, "text", "pairs"}):  # the last three: of a join that was killed
        raise OutputError(f"{folder.path} holds more than shards ({', '.join(foreign[:3])}); move that away, then join")
    parts = read_parts(folder.path)
    _check_fit(folder.path, parts)
    _take_shards(folder, parts)
    recipe = parts[0].recipe
    folder.write_text(RECIPE, json.dumps(recipe, indent=2, ensure_ascii=False) + "\n")
    counts = finish_folder(folder, recipe, len(parts))
    _remove(shards)
    return counts


def read_parts(output: Path) -> list[Part]:
    """Read what all jobs left below an output, in their order, and check each on its own.

    Raises:
        OutputError: shards are missing, unfinished, damaged, in use, or of another number of jobs.
    """
    names = sorted(entry.name for entry in (output / SHARDS).iterdir() if not entry.name.startswith("."))
    found = {name: re.fullmatch(r"(0|[1-9]\d*)-of-([1-9]\d*)", name) for name in names}
    if strange := [name for name, match in found.items() if not match or int(match[1]) >= int(match[2])]:
        raise OutputError(f"{output / SHARDS} holds {strange[0]}, which is no shard; move it away, then join")
    counts = sorted({int(match[2]) for match in found.values() if match})
    if not counts:
        raise OutputError(f"{output / SHARDS} is empty; write shards with `ipt augment INPUT {output} --shard I/N`")
    if len(counts) > 1:
        raise OutputError(
            f"{output / SHARDS} holds shards of {' and of '.join(map(str, counts))} jobs; one corpus has one number of "
            "jobs: move the others away, then join"
        )
    [count] = counts
    folders = [output / SHARDS / f"{index}-of-{count}" for index in range(count)]
    missing = [index for index, folder in enumerate(folders) if not is_finished(folder)]
    if missing:
        raise OutputError(_said_missing(output, missing, count, folders))
    return [_read_part(folder) for folder in folders]


def is_finished(folder: Path) -> bool:
    """Tell whether a job's folder is there and finished.

    Raises:
        OutputError: the job writes there now.
    """
    if not (folder / RECIPE).exists():
        return False
    with OutputFolder(folder) as opened:  # in use: said in a line of its own
        return opened.is_finished


def _said_missing(output: Path, missing: Sequence[int], count: int, folders: Sequence[Path]) -> str:
    recipe = next((read for folder in folders if (read := read_recipe(folder))), {})
    command = reproducing_command({**recipe, "shard": {"index": missing[0], "count": count}})
    command = command.replace(" OUTPUT", f" {shlex.quote(str(output))}", 1) or "ipt augment INPUT OUTPUT --shard I/N"
    named = ", ".join(f"{index}/{count}" for index in missing[:NAMED])
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return f"{output}: of {count} shards {named}{more} are missing or not finished; run for each: {command} --resume"


def read_recipe(folder: Path) -> dict[str, Any]:
    """Read a folder's recipe; empty where there is none that can be read."""
    try:
        recipe: dict[str, Any] = json.loads((folder / RECIPE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return recipe


def _read_part(folder: Path) -> Part:
    with open_finished(folder) as opened:
        recipe = read_recipe(folder)
        shard = recipe.pop("shard", {})
        if f"{shard.get('index')}-of-{shard.get('count')}" != folder.name:
            raise OutputError(f"{folder} was not written as shard {folder.name}; write it anew with --overwrite")
        check_digests(opened)
        share = Share(shard["index"], shard["count"], recipe["input"]["rows_per_shard"])
        names = [file.name for file in opened.shards("pairs")]
        if names != [file.name for file in opened.shards("text")]:
            raise OutputError(f"{folder} is damaged: its texts and pairs differ in number; write it with --overwrite")
        files, row = {}, 0
        for file in opened.shards("pairs"):
            n_rows = int(pq.read_metadata(file).num_rows)
            if row // share.block_rows != (row + n_rows - 1) // share.block_rows:
                raise OutputError(f"{file} goes over the end of a block; write {folder} anew with --overwrite")
            files[share.input_row(row)] = file.name
            row += n_rows
    return Part(share, recipe, shard["input"], files, row)


def _check_fit(output: Path, parts: Sequence[Part]) -> None:
    """Make sure that all parts are of one recipe and one input, and cover it without gap or overlap."""
    first = parts[0]
    again = "run every shard again with --resume and the same settings"
    total = sum(part.rows for part in parts)
    for part in parts:
        if differing := differences(first.recipe, part.recipe):
            raise OutputError(
                f"{output}: shards {first.share} and {part.share} have different recipes: {'; '.join(differing)}; "
                "write one of them anew with --overwrite"
            )
        if part.state != first.state:
            raise OutputError(
                f"{output}: shards {first.share} and {part.share} read different states of the input (other files, "
                f"sizes or commit); {again}"
            )
    for part in parts:
        if part.rows != part.share.rows_of(total):
            raise OutputError(
                f"{output}: the shards do not cover one input: {part.share} has {part.rows:,} of {total:,} rows, "
                f"expected {part.share.rows_of(total):,}; {again}"
            )
    schemas = [
        pq.read_schema(part.share.folder(output) / "pairs" / next(iter(part.files.values())))
        for part in parts
        if part.files
    ]
    if not all(schema.equals(schemas[0]) for schema in schemas):
        raise OutputError(f"{output}: not all shards have the same columns; {again}")


def _take_shards(folder: OutputFolder, parts: Sequence[Part]) -> None:
    """Put all shards into the folder's configs, numbered in the order of the input."""
    ordered = sorted((row, part.share, name) for part in parts for row, name in part.files.items())
    for leftover in folder.path.glob(f"{TEMPORARY}*"):
        _remove(leftover)
    for config_name in ("text", "pairs"):
        _remove(folder.path / config_name)
        growing = folder.path / f"{TEMPORARY}{config_name}"
        growing.mkdir()
        for number, (_, share, name) in enumerate(ordered):
            _link(share.folder(folder.path) / config_name / name, growing / shard_name(number))
        flush(growing)
        os.rename(growing, folder.path / config_name)
    flush(folder.path)


def _link(file: Path, new: Path) -> None:
    try:
        os.link(file, new)
    except OSError:  # not every file system has hard links
        with file.open("rb") as source, replacing(new) as target:
            shutil.copyfileobj(source, target, 1 << 20)


def _remove(path: Path) -> None:
    """Delete a file or folder; a folder first gets a name that counts for nothing."""
    if path.is_dir():
        away = path.with_name(f"{TEMPORARY}old-{path.name.removeprefix(TEMPORARY)}")
        if away.exists():
            shutil.rmtree(away)
        path.rename(away)
        shutil.rmtree(away)
    else:
        path.unlink(missing_ok=True)
