r"""The files that hold templates: what may stand in them, and the reading and checking of one.

The shipped ones are in `library/`. Such a file is TOML; its tables and keys are those of `SECTIONS` (`text.lead_ins`
is the key `lead_ins` in the table `[text]`), each a list of entries. An entry is a string, or a list of two strings in
a section of couples, or either with a weight: `{ form = "...", weight = 3 }` is drawn three times as often as an entry
without one. Words in braces are filled in; `SECTIONS` says which ones an entry needs and which it may have.

    [pairs]
    free_form = ["Ask: {instruction}\nTell: {response}", { form = "{instruction}\n\n{response}", weight = 3 }]

The entries of a user's file are added to the shipped ones; with `replace = true` at its top, its lists take the place
of the shipped lists of the same name (templates in another language, say). Two settings may stand in a file as well,
both in `[frames]`: `weights = { classic = 50, dialogue = 10 }`, and `alike = 0.5`, the share of chains whose shots are
all shown in one way, while in the others each shot draws for itself.

Three words deserve a remark. `{stop}` breaks between a rationale and what follows on the same line: a space, with a
full stop where the rationale ends without one, or a line break where the rationale itself has lines. `{A}`, `{a}`,
`{1}`, `{i}` and `{I}` count, in letters, digits or roman numerals, as far as needed. `{noun}` is what the text is
called throughout a shot; `{Noun}` is the same with a capital.
"""

import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ipt_datasets.errors import InputError

FRAMES: Mapping[str, int] = {
    "classic": 1,
    "dialogue": 1,
    "numbered": 2,
    "worked_examples": 2,
    "next_turn": 2,
    "pairs_first": 1,
}
"""The frames a shot can be shown in, and how many pairs each needs; what they look like stands in frames.toml."""

COUNTERS = ("A", "a", "1", "i", "I")
COUNTER_FAMILIES = {"letters": {"A", "a"}, "digits": {"1"}, "romans": {"i", "I"}}


class Section(NamedTuple):
    """What the entries of one list look like.

    Attributes:
        needs: the words in braces that stand in each entry exactly once.
        may: further words it may hold.
        couple: an entry is two strings.
    """

    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    couple: bool = False


_NOUN = ("noun", "Noun")
SECTIONS: Mapping[str, Section] = {
    "pairs.free_form": Section(("instruction", "response")),
    "pairs.multiple_choice": Section(("instruction", "options", "response")),
    "pairs.chain_of_thought": Section(("instruction", "rationale", "response"), ("stop",)),
    "pairs.multiple_choice_chain_of_thought": Section(("instruction", "options", "rationale", "response"), ("stop",)),
    "reasoning.cues": Section(),
    "reasoning.answers": Section(("rationale", "response"), ("stop",)),
    "text.nouns": Section(),
    "text.lead_ins": Section(("text",), _NOUN),
    "transitions.any": Section((), _NOUN),
    "transitions.one": Section((), _NOUN),
    "transitions.many": Section((), _NOUN),
    "separators.headings": Section(),
    "separators.pairs": Section(),
    "separators.shots": Section(),
    "options.items": Section(("option",), COUNTERS),
    "options.lead_ins": Section(),
    "options.delimiters": Section(),
    "options.responses": Section((), ("response", "item", "label")),
    "options.last": Section(),
    "dialogue.openings": Section((), _NOUN),
    "dialogue.speakers": Section(couple=True),
    "dialogue.turns": Section(("speaker", "words")),
    "dialogue.handovers": Section((), ("text", *_NOUN), couple=True),
    "dialogue.separators": Section(),
    "numbered.headings": Section((), _NOUN, couple=True),
    "numbered.labels": Section((), COUNTERS, couple=True),
    "worked_examples.openings.any": Section((), _NOUN),
    "worked_examples.openings.one": Section((), _NOUN),
    "worked_examples.openings.many": Section((), _NOUN),
    "worked_examples.labels": Section((), COUNTERS),
    "worked_examples.closings": Section((), _NOUN),
    "next_turn.forms": Section(("history", "answer"), ("asker", "answerer", *_NOUN)),
    "pairs_first.openings.any": Section((), _NOUN),
    "pairs_first.openings.one": Section((), _NOUN),
    "pairs_first.openings.many": Section((), _NOUN),
    "pairs_first.texts.any": Section(("text",), _NOUN),
    "pairs_first.texts.one": Section(("text",), _NOUN),
    "pairs_first.texts.many": Section(("text",), _NOUN),
}
_FIELD = re.compile(r"\{(\w+)\}")
_CLOSED_BY_CONTENT = ("instruction", "response", "rationale", "item")
_PUNCTUATION = tuple(".,;:?!…。，；：？！")


class Template(NamedTuple):
    """A form cut at its words in braces once, so that filled-in contents are never read as a form again.

    Attributes:
        source: the form as it stands in its file.
        head: what stands before its first word in braces.
        fields: those words, each with what stands behind it.
        counter: the one of them that counts, "" for none.
    """

    source: str
    head: str
    fields: tuple[tuple[str, str], ...]
    counter: str

    @classmethod
    def compile(cls, source: str) -> "Template":
        """Cut a form at its words in braces."""
        head, *rest = _FIELD.split(source)
        counter = next((name for name in rest[::2] if name in COUNTERS), "")
        return cls(source, head, tuple(zip(rest[::2], rest[1::2], strict=True)), counter)

    def fill(self, values: Mapping[str, str]) -> str:
        """Put the values in, byte for byte."""
        filled = [self.head]
        for name, literal in self.fields:
            filled.append(values[name])
            filled.append(literal)
        return "".join(filled)


Entry = tuple[tuple[Template, ...], float]
"""The forms of an entry (one, or two in a couple) and its weight."""


class TemplatesFile(NamedTuple):
    """What one data file says, checked: see the head of this module."""

    replace: bool
    entries: Mapping[str, Sequence[Entry]]
    frame_weights: Mapping[str, float] | None
    alike: float | None


def read_templates(name: str, content: str) -> TemplatesFile:
    """Parse and check one data file; `name` is for messages.

    Raises:
        InputError: see `load_library`.
    """
    try:
        tables = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"templates file {name} is not TOML: {error}") from None
    replace = tables.pop("replace", False)
    frames = tables.get("frames")
    weights, alike = (
        (frames.pop("weights", None), frames.pop("alike", None)) if isinstance(frames, dict) else (None, None)
    )
    if not isinstance(replace, bool) or not (alike is None or (isinstance(alike, int | float) and 0 <= alike <= 1)):
        raise InputError(f"templates file {name}: replace must be true or false, frames.alike a number from 0 to 1")
    if weights is not None and (problem := frame_weights_problem(weights)):
        raise InputError(f"templates file {name}: frames.weights {problem}")
    entries: dict[str, list[Entry]] = {}
    for section, listed in _flat(tables):
        if section not in SECTIONS:
            raise InputError(f"templates file {name}: unknown section {section!r}; known are {', '.join(SECTIONS)}")
        if not isinstance(listed, list) or not listed:
            raise InputError(f"templates file {name}: {section} must be a list of at least one entry")
        entries[section] = [_entry(f"{name}: {section}[{at}]", section, raw) for at, raw in enumerate(listed)]
        forms = [tuple(form.source for form in entry) for entry, _ in entries[section]]
        if doubled := next((form for form in forms if forms.count(form) > 1), None):
            raise InputError(f"templates file {name}: {section} has {' | '.join(doubled)!r} twice; give it a weight")
    return TemplatesFile(replace, entries, weights, alike)


def frame_weights_problem(weights: Any) -> str:
    """Say what is wrong with frame weights, "" if nothing is."""
    if not isinstance(weights, Mapping) or set(weights) - set(FRAMES):
        return f"must map names out of {', '.join(FRAMES)} to weights; given: {weights!r}"
    if any(isinstance(w, bool) or not isinstance(w, int | float) or not 0 <= w < math.inf for w in weights.values()):
        return f"must be finite numbers of at least 0; given: {weights!r}"
    return "" if sum(weights.values()) else f"must name a frame and not all be 0; given: {weights!r}"


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, dict) and prefix + key not in SECTIONS:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _entry(place: str, section: str, raw: Any) -> Entry:
    expected = SECTIONS[section]
    weight: Any = 1
    if isinstance(raw, dict):
        if set(raw) != {"form", "weight"}:
            raise InputError(f"templates file {place}: a table must have form and weight, it has {', '.join(raw)}")
        raw, weight = raw["form"], raw["weight"]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise InputError(f"templates file {place}: the weight must be a finite number above 0, it is {weight!r}")
    sources = raw if expected.couple else [raw]
    if not isinstance(sources, list) or len(sources) != 1 + expected.couple or any(type(s) is not str for s in sources):
        raise InputError(
            f"templates file {place}: expected {'two strings' if expected.couple else 'a string'}: {raw!r}"
        )
    forms = tuple(Template.compile(source) for source in sources)
    if problem := _problem(section, expected, forms):
        raise InputError(f"templates file {place}: {problem}: {raw!r}")
    return forms, float(weight)


def _problem(section: str, expected: Section, forms: tuple[Template, ...]) -> str:
    names = [name for form in forms for name, _ in form.fields]
    if unknown := set(names) - {*expected.needs, *expected.may}:
        known = ", ".join(f"{{{name}}}" for name in (*expected.needs, *expected.may)) or "none"
        return f"unknown {{{unknown.pop()}}} (known here: {known})"
    for name in expected.needs:
        if names.count(name) != 1:
            return f"{{{name}}} must stand in it exactly once, so that nothing is lost"
    for form in forms:
        for name, literal in form.fields:
            if name in _CLOSED_BY_CONTENT and literal.startswith(_PUNCTUATION):
                return f"punctuation right behind {{{name}}}, which brings its own"
        counters = sum(name in COUNTERS for name, _ in form.fields)
        if counters > 1 or (section == "numbered.labels" and counters != 1):
            return "one counter is needed" if section == "numbered.labels" else "one counter is enough"
    return _SPECIAL[section](forms) if section in _SPECIAL else ""


def _responses_problem(forms: tuple[Template, ...]) -> str:
    shown = [name for name, _ in forms[0].fields if name in ("response", "item")]
    return "" if len(shown) == 1 else "it must show the answer's words, by {response} or {item}, once"


def _shots_problem(forms: tuple[Template, ...]) -> str:
    source = forms[0].source
    visible = source.startswith("\n\n") and source.endswith("\n") and len(source) > 2
    return "" if visible else "a separator of shots needs a blank line and something more, and ends its line"


def _handovers_problem(forms: tuple[Template, ...]) -> str:
    asked = [name for name, _ in forms[0].fields].count("text")
    empty = not forms[0].source and not forms[1].source
    wrong = asked != 1 or any(name == "text" for name, _ in forms[1].fields)
    return "the first turn hands over {text}, once, or both turns are empty" if wrong and not empty else ""


_SPECIAL = {
    "options.responses": _responses_problem,
    "separators.shots": _shots_problem,
    "dialogue.handovers": _handovers_problem,
}


def counter_family(counter: str) -> str:
    """Give the family ("letters", "digits", "romans") of a counter."""
    return next(family for family, counters in COUNTER_FAMILIES.items() if counter in counters)
