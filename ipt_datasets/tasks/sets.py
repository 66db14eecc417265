"""Task sets as `description.py` describes them, read into rows of one schema with a report of what was left out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from ipt_datasets.errors import InputError, RecipeError, one_line
from ipt_datasets.schema import TASK_FEATURES, Pair
from ipt_datasets.synthesis.markup import PAPER
from ipt_datasets.tasks.converters import CONVERTERS, LEFT_OUT, Converted, LeftOut, TaskText
from ipt_datasets.tasks.derive import (
    add_options,
    add_rationales,
    first_of_each_answer,
    gather,
    join_neighbours,
    order_by_place,
    shuffle_some,
)
from ipt_datasets.tasks.description import TaskSet, read_description
from ipt_datasets.tasks.files import read_files
from ipt_datasets.tasks.public_sets import PUBLIC_SETS
from ipt_datasets.tasks.select import Overlap, is_held_out, most_pairs


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


def read_texts(task_set: TaskSet, data: str | Path, report: Report, seed: int = 0) -> list[TaskText]:
    """Read one set: converted, gathered by text, ordered, with options and reasons added.

    Args:
        task_set: which.
        data: the folder that its `files` are relative to.
        report: counts what is left out.
        seed: draws which pairs get options and reasons.

    Raises:
        InputError: a file is missing or cannot be read, or there is nothing in them.
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
        pairs = found.pairs
        if task_set.use == "tune":
            pairs, repeated = first_of_each_answer(pairs)
            for each in repeated:
                report.leave_out(each)
        pairs = order_by_place(found.text, pairs)
        if len(pairs) < task_set.min_pairs:
            report.leave_out(LeftOut("under_min_pairs", found.text[:120]))
            continue
        if len(pairs) > task_set.max_pairs:
            pairs, beyond = _spread(pairs, task_set.max_pairs)
            for pair in beyond:
                report.leave_out(LeftOut("over_max_pairs", pair.instruction))
        if task_set.options:
            pairs = add_options(found.text, pairs, task_set.options, seed)
        if task_set.rationales:
            pairs = add_rationales(found.text, pairs, task_set.rationales, seed)
        pairs = shuffle_some(found.text, pairs, task_set.shuffled, seed)
        kept.append(TaskText(found.text, pairs, found.document))
    if not kept and not report.left_out:
        raise InputError(f"[{task_set.name}] nothing was found in {', '.join(task_set.files)} below {data}")
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
        description: a TOML file, see `tasks/description.py`.
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
        left_out = sum((report.left_out for report in reports.values()), Counter[str]())
        why = ", ".join(f"{number:,} {reason}" for reason, number in left_out.most_common()) or "nothing was left out"
        what = "no held-out text" if part == "held_out" else f"no rows to {use} on"
        raise InputError(f"{description}: {what} in {', '.join(names or sets)} ({why})")
    columns = {column: [row[column] for row in rows] for column in TASK_FEATURES}
    return Dataset.from_dict(columns, features=TASK_FEATURES), reports


def read_evaluation_rows(description: str | Path, data: str | Path, name: str) -> tuple[Dataset, Report]:
    """Read what a synthesizer may be scored on: a set that was never tuned on, or the held-out texts of one that was.

    Args:
        description: a TOML file, see `tasks/description.py`.
        data: the folder of the sets.
        name: of the set.

    Returns:
        Rows of `schema.TASK_FEATURES` in a seeded order, so that the first ones are a fair sample, and what was left
        out of the set.

    Raises:
        InputError: there is no such set, or it cannot be read.
    """
    described = read_description(description).get(name)
    part: Literal["held_out", "evaluate"] = "held_out" if described and described.use == "tune" else "evaluate"
    rows, reports = read_task_rows(description, data, part=part, names=[name])
    return rows.shuffle(seed=0), reports[name]


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
        yield from _read_public(task_set, data)
        return
    convert = partial(CONVERTERS[task_set.convert], **task_set.arguments)
    for row in read_files(task_set.name, task_set.files, data):
        try:
            found = list(convert(row)) if isinstance(row, Mapping) else [LeftOut("unreadable", f"{row!r:.120}")]
        except (TypeError, AttributeError, LookupError, ValueError):
            found = [LeftOut("unreadable", f"{row!r:.120}")]
        yield from found


def _read_public(task_set: TaskSet, data: Path) -> Converted:
    folder = data / task_set.files[0]
    if not folder.is_dir():
        raise InputError(f"[{task_set.name}] there is no folder {folder}; say where the sets are with --data")
    reader = PUBLIC_SETS.get(task_set.name)
    if reader is None:
        raise RecipeError(f"[{task_set.name}] convert = 'public' knows {', '.join(PUBLIC_SETS)}")
    try:
        yield from reader(folder, **task_set.arguments)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(
            f"[{task_set.name}] {folder} cannot be read: {type(error).__name__}: {one_line(error)}; expected the files "
            f"of {task_set.origin or 'the set'} as {reader.__name__} of tasks/public_sets.py names them"
        ) from error


def _is_unicode(found: TaskText) -> bool:
    strings = [found.text]
    for pair in found.pairs:
        strings += [pair.instruction, pair.response, pair.rationale, *pair.options]
    try:
        "".join(strings).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _spread(pairs: tuple[Pair, ...], number: int) -> tuple[tuple[Pair, ...], list[Pair]]:
    """Take so many pairs, evenly from the whole text; gives the others, too."""
    taken = {at * len(pairs) // number for at in range(number)}
    others = [pair for at, pair in enumerate(pairs) if at not in taken]
    return tuple(pairs[at] for at in sorted(taken)), others
