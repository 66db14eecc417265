"""The template library: the shipped files and a user's own joined, ready to draw from."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

from ipt_datasets.errors import InputError
from ipt_datasets.templating.template_file import COUNTER_FAMILIES, SECTIONS, Entry, Template, read_templates

EntryT = TypeVar("EntryT")


class Choices(NamedTuple, Generic[EntryT]):
    """Entries of one section with their running sums of weights, ready to draw from."""

    entries: tuple[EntryT, ...]
    cumulative: tuple[float, ...]

    @classmethod
    def of(cls, weighted: Iterable[tuple[EntryT, float]]) -> "Choices[EntryT]":
        """Join entries and weights."""
        pairs = tuple(weighted)
        return cls(tuple(entry for entry, _ in pairs), tuple(accumulate(weight for _, weight in pairs)))


@dataclass(frozen=True)
class Library:
    """All templates, ready to draw from.

    Attributes:
        forms: the sections of single forms, and what `_derive` makes of them.
        couples: the sections whose entries are two forms.
        last: phrases such as "none of the above", normalised; such an option is shown last.
        frame_weights: by frame.
        alike: share of chains whose shots are all shown the same way.
    """

    forms: Mapping[str, Choices[Template]]
    couples: Mapping[str, Choices[tuple[Template, Template]]]
    last: frozenset[str]
    frame_weights: Mapping[str, float]
    alike: float


def normalised(phrase: str) -> str:
    """Give a phrase as options are compared: case, outer white space and a closing full stop do not count."""
    return phrase.strip().rstrip(".").rstrip().casefold()


@functools.cache
def load_library(user_files: tuple[tuple[str, str], ...] = ()) -> Library:
    """Give the shipped library with a user's files added; parsed once a process.

    Args:
        user_files: (name for messages, content) of each file, in the order in which they are added.

    Raises:
        InputError: a file is not TOML or an entry is not as its section wants it; the message names both.
    """
    folder = resources.files("ipt_datasets.templating") / "library"
    shipped = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda entry: entry.name
    )
    files = [read_templates(entry.name, entry.read_text(encoding="utf-8")) for entry in shipped]
    files += [read_templates(name, content) for name, content in user_files]
    entries: dict[str, list[Entry]] = {section: [] for section in SECTIONS}
    weights: Mapping[str, float] = {}
    alike = 0.0
    for file in files:
        for section, added in file.entries.items():
            entries[section] = [*([] if file.replace else entries[section]), *added]
        weights = file.frame_weights or weights
        alike = alike if file.alike is None else file.alike
    return _derive(entries, weights, alike)


def _derive(entries: Mapping[str, Sequence[Entry]], weights: Mapping[str, float], alike: float) -> Library:
    forms: dict[str, list[tuple[Template, float]]] = {}
    couples: dict[str, Choices[tuple[Template, Template]]] = {}
    for section, added in entries.items():
        if SECTIONS[section].couple:
            couples[section] = Choices.of(((both[0], both[1]), weight) for both, weight in added)
        else:
            forms[section] = [(one[0], weight) for one, weight in added]
    for section in [name.removesuffix(".any") for name in forms if name.endswith(".any")]:
        for number in ("one", "many"):
            forms[f"{section}.{number}"] = [*forms[f"{section}.any"], *forms[f"{section}.{number}"]]
    items = forms["options.items"]
    for labels, counter in (("none", ""), ("A", "A"), ("1", "1")):
        forms[f"options.items {labels}"] = [item for item in items if item[0].counter == counter]
    for family, counters in COUNTER_FAMILIES.items():
        forms[f"options.items not {family}"] = [item for item in items if item[0].counter not in counters]
    forms["options.lead_ins worded"] = [lead_in for lead_in in forms["options.lead_ins"] if lead_in[0].source]
    forms["options.responses several"] = [
        form for form in forms["options.responses"] if all(name != "item" for name, _ in form[0].fields)
    ]
    if missing := [section for section, listed in forms.items() if not listed]:
        raise InputError(f"the template library has no entry left for {', '.join(missing)}: add one to your file")
    between_pairs = {form.source for form, _ in forms["separators.pairs"]}
    if alike_to := sorted(between_pairs & {form.source for form, _ in forms["separators.shots"]}):
        raise InputError(f"separators.shots and separators.pairs both have {alike_to[0]!r}: shots would run together")
    return Library(
        forms={section: Choices.of(listed) for section, listed in forms.items()},
        couples=couples,
        last=frozenset(normalised(form.source) for form, _ in forms["options.last"]),
        frame_weights=weights,
        alike=alike,
    )
