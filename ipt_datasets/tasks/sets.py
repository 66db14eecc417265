"""Task sets as a file describes them, read into rows of one schema with a report of what was left out.

The description is TOML, one table a set:

    [squadshifts_new_wiki]
    files = ["squadshifts_new_wiki/*.json"]  # relative to the data folder
    convert = "squad"                        # a converter of tasks/converters.py, or "public" for public_sets.py
    use = "tune"                             # or "evaluate": never tuned on
    licence = "CC BY-SA 4.0"
    origin = "github:..."
    max_texts = 10_000                       # those with most pairs first
    min_pairs = 3                            # texts with fewer are left out
    max_pairs = 10                           # of one text
    join_words = 300                         # join neighbouring parts of a document up to this length
    shuffled = 0.3                           # the share of texts whose pairs are not in the order of the text
    options = 0.15                           # the share of pairs that becomes multiple choice
    rationales = 0.1                         # the share that gets its sentence as a reason
    shown_first = true                       # of each sequence the first text is shown, and only the others learned
    arguments = { text = "context" }         # of the converter
"""

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from ipt_datasets.errors import InputError, RecipeError
from ipt_datasets.schema import TASK_FEATURES, Pair
from ipt_datasets.synthesis.markup import PAPER
from ipt_datasets.tasks.converters import CONVERTERS, LEFT_OUT, Converted, LeftOut, TaskText
from ipt_datasets.tasks.derive import add_options, add_rationales, gather, join_neighbours, order_by_place, shuffle_some
from ipt_datasets.tasks.files import read_files
from ipt_datasets.tasks.public_sets import PUBLIC_SETS
from ipt_datasets.tasks.select import Overlap, is_held_out, most_pairs

MAX_TEXTS = 10_000


@dataclass(frozen=True)
class TaskSet:
    """One set of a description; see the module's text for the fields."""

    name: str
    files: tuple[str, ...]
    convert: str
    licence: str = ""
    origin: str = ""
    use: Literal["tune", "evaluate"] = "tune"
    max_texts: int = MAX_TEXTS
    min_pairs: int = 1
    max_pairs: int = 10
    join_words: int = 0
    shuffled: float = 0.0
    options: float = 0.0
    rationales: float = 0.0
    shown_first: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """What was made of a set.

    Attributes:
        texts, pairs: kept.
        left_out: how often each reason of `LEFT_OUT` was met.
        examples: what was left out, the first few a reason.
    """

    texts: int = 0
    pairs: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, left: LeftOut) -> None:
        """Count something that is not used."""
        self.left_out[left.reason] += 1
        examples = self.examples.setdefault(left.reason, [])
        if len(examples) < 3:
            examples.append(left.what)

    def lines(self, name: str) -> list[str]:
        """Write the report for people."""
        head = f"{name}: {self.texts:,} texts with {self.pairs:,} pairs"
        return [
            head,
            *(
                f"  left out {number:,}: {LEFT_OUT[reason]}, e.g. {self.examples[reason][0]!r:.90}"
                for reason, number in self.left_out.most_common()
            ),
        ]


def shipped_description(name: str) -> Path:
    """Give the description of task sets that ships under a name ("smol"), or the path that the name is.

    Raises:
        InputError: it is neither.
    """
    shipped = {path.stem: path for path in Path(__file__).parent.glob("*.toml")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise InputError(f"there is no description of task sets {name!r}; expected a TOML file or {', '.join(shipped)}")
    return path


def read_description(path: str | Path) -> dict[str, TaskSet]:
    """Read a description of task sets.

    Raises:
        InputError: the file cannot be read, or describes a set wrongly.
    """
    try:
        described = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as a description of task sets: {error}") from error
    sets: dict[str, TaskSet] = {}
    known = {each.name for each in fields(TaskSet)} - {"name"}
    for name, table in described.items():
        if not isinstance(table, dict) or not {"files", "convert"} <= table.keys() or table.keys() - known:
            raise InputError(
                f"{path}: [{name}] needs `files` and `convert` and may have {', '.join(sorted(known))}; "
                f"it has {', '.join(table) if isinstance(table, dict) else repr(table)}"
            )
        if table["convert"] not in CONVERTERS and table["convert"] != "public":
            raise InputError(
                f"{path}: [{name}] has convert = {table['convert']!r}; there are {', '.join(CONVERTERS)} and public"
            )
        sets[name] = TaskSet(**{**table, "name": name, "files": tuple(table["files"])})
    if not sets:
        raise InputError(f"{path} describes no task set")
    return sets


def read_texts(task_set: TaskSet, data: str | Path, report: Report, seed: int = 0) -> list[TaskText]:
    """Read one set: converted, gathered by text, ordered, with options and reasons added.

    Args:
        task_set: which.
        data: the folder that its `files` are relative to.
        report: counts what is left out.
        seed: draws which pairs get options and reasons.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    kept: list[TaskText] = []
    converted = gather(_converted(task_set, Path(data)))
    if task_set.join_words:
        converted = join_neighbours(converted, task_set.join_words)
    for found in converted:
        if isinstance(found, LeftOut):
            report.leave_out(found)
            continue
        if not _is_unicode(found):
            report.leave_out(LeftOut("not_unicode", repr(found.text[:100])))
            continue
        pairs = order_by_place(found.text, found.pairs)
        if len(pairs) < task_set.min_pairs:
            report.leave_out(LeftOut("under_min_pairs", found.text[:120]))
            continue
        if len(pairs) > task_set.max_pairs:
            report.leave_out(LeftOut("over_max_pairs", pairs[-1].instruction))
            pairs = _spread(pairs, task_set.max_pairs)
        if task_set.options:
            pairs = add_options(found.text, pairs, task_set.options, seed)
        if task_set.rationales:
            pairs = add_rationales(found.text, pairs, task_set.rationales, seed)
        pairs = shuffle_some(found.text, pairs, task_set.shuffled, seed)
        kept.append(TaskText(found.text, pairs, found.document))
    kept, left = most_pairs(kept, task_set.max_texts, seed)
    for each in left:
        report.leave_out(each)
    return kept


def read_task_rows(
    description: str | Path,
    data: str | Path,
    *,
    part: Literal["tune", "held_out", "evaluate"] = "tune",
    names: Iterable[str] | None = None,
    held_out: float = 0.05,
    seed: int = 0,
) -> tuple[Dataset, dict[str, Report]]:
    """Read described sets as rows of `schema.TASK_FEATURES`.

    Texts that share words with an evaluation set are taken out of the others, and reported.

    Args:
        description: a TOML file, see the module's text.
        data: the folder of the sets.
        part: "tune": the texts of the sets to tune on, without the held-out ones; "held_out": those;
            "evaluate": the sets that are never tuned on.
        names: only these sets.
        held_out: the share of texts of each set that is held out.
        seed: draws held-out texts, options and reasons.

    Returns:
        The rows, and a report a set.

    Raises:
        InputError: the description or a file cannot be read, or nothing is left.
    """
    sets = read_description(description)
    if unknown := sorted(set(names or ()) - sets.keys()):
        raise InputError(f"{description} has no set {', '.join(unknown)}; it has {', '.join(sets)}")
    use = "evaluate" if part == "evaluate" else "tune"
    reports: dict[str, Report] = {}
    rows: list[dict[str, Any]] = []
    overlap = _evaluation_texts(sets, data) if use == "tune" else None
    for name, task_set in sets.items():
        if task_set.use != use or (names and name not in names):
            continue
        report = reports[name] = Report()
        for found in read_texts(task_set, data, report, seed):
            if overlap and found.text in overlap:
                report.leave_out(LeftOut("in_evaluation", found.text[:120]))
            elif part == "evaluate" or is_held_out(found.text, held_out, seed) == (part == "held_out"):
                report.texts += 1
                report.pairs += len(found.pairs)
                rows.append(task_row(name, found))
    if not rows:
        raise InputError(f"{description}: no rows to {use} on in {', '.join(names or sets)}")
    columns = {column: [row[column] for row in rows] for column in TASK_FEATURES}
    return Dataset.from_dict(columns, features=TASK_FEATURES), reports


def read_evaluation_rows(description: str | Path, data: str | Path, name: str) -> Dataset:
    """Read what a synthesizer may be scored on: a set that was never tuned on, or the held-out texts of one that was.

    Args:
        description: a TOML file, see the module's text.
        data: the folder of the sets.
        name: of the set.

    Returns:
        Rows of `schema.TASK_FEATURES` in a seeded order, so that the first ones are a fair sample.

    Raises:
        InputError: there is no such set, or it cannot be read.
    """
    described = read_description(description).get(name)
    part: Literal["held_out", "evaluate"] = "held_out" if described and described.use == "tune" else "evaluate"
    rows, _ = read_task_rows(description, data, part=part, names=[name])
    return rows.shuffle(seed=0)


def task_row(name: str, found: TaskText) -> dict[str, Any]:
    """Give a row of `schema.TASK_FEATURES`."""
    return {
        "text": found.text,
        "pairs": [pair.to_row(0) for pair in found.pairs],
        "task_set": name,
        "prompt": PAPER.render_text(found.text),
        "completion": PAPER.render_pairs(found.pairs),
    }


def _evaluation_texts(sets: Mapping[str, TaskSet], data: str | Path) -> Overlap:
    ignored = Report()
    return Overlap(
        found.text
        for task_set in sets.values()
        if task_set.use == "evaluate"
        for found in read_texts(task_set, data, ignored)
    )


def _converted(task_set: TaskSet, data: Path) -> Converted:
    if task_set.convert == "public":
        folder = data / task_set.files[0]
        if not folder.is_dir():
            raise InputError(f"[{task_set.name}] there is no folder {folder}; say where the sets are with --data")
        reader = PUBLIC_SETS.get(task_set.name)
        if reader is None:
            raise RecipeError(f"[{task_set.name}] convert = 'public' knows {', '.join(PUBLIC_SETS)}")
        yield from reader(folder, **task_set.arguments)
        return
    convert = partial(CONVERTERS[task_set.convert], **task_set.arguments)
    for row in read_files(task_set.name, task_set.files, data):
        if isinstance(row, Mapping):
            yield from convert(row)
        else:
            yield LeftOut("unreadable", f"{row!r:.120}")


def _is_unicode(found: TaskText) -> bool:
    strings = [found.text]
    for pair in found.pairs:
        strings += [pair.instruction, pair.response, pair.rationale, *pair.options]
    try:
        "".join(strings).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _spread(pairs: tuple[Pair, ...], number: int) -> tuple[Pair, ...]:
    """Take so many pairs, evenly from the whole text."""
    return tuple(pairs[at * len(pairs) // number] for at in range(number))
