"""Which task sets there are, where they lie and how they are read: a description in TOML, one table a set.

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

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ipt_datasets.errors import InputError
from ipt_datasets.tasks.converters import CONVERTERS

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


class _Expected(NamedTuple):
    """What a field of a description may hold."""

    what: str
    holds: Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_STRING = _Expected("a string", lambda value: isinstance(value, str))
_COUNT = _Expected("a whole number of at least 1", _is_count)
_SHARE = _Expected("a share from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
_EXPECTED = {
    "files": _Expected(
        "a list of files or globs relative to the data folder",
        lambda value: (
            isinstance(value, list)
            and bool(value)
            and all(isinstance(each, str) and each and not Path(each).is_absolute() for each in value)
        ),
    ),
    "convert": _Expected(f"one of {', '.join(CONVERTERS)} and public", lambda value: value in (*CONVERTERS, "public")),
    "licence": _STRING,
    "origin": _STRING,
    "use": _Expected('"tune" or "evaluate"', lambda value: value in ("tune", "evaluate")),
    "max_texts": _COUNT,
    "min_pairs": _COUNT,
    "max_pairs": _COUNT,
    "join_words": _Expected("a whole number, 0 for none", lambda value: value == 0 or _is_count(value)),
    "shuffled": _SHARE,
    "options": _SHARE,
    "rationales": _SHARE,
    "shown_first": _Expected("true or false", lambda value: isinstance(value, bool)),
    "arguments": _Expected("a table", lambda value: isinstance(value, dict)),
}


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
    for name, table in described.items():
        if not isinstance(table, dict) or not {"files", "convert"} <= table.keys() or table.keys() - _EXPECTED.keys():
            raise InputError(
                f"{path}: [{name}] needs `files` and `convert` and may have {', '.join(sorted(_EXPECTED))}; "
                f"it has {', '.join(table) if isinstance(table, dict) else repr(table)}"
            )
        if wrong := _wrong(table):
            raise InputError(f"{path}: [{name}] {wrong}")
        sets[name] = TaskSet(**{**table, "name": name, "files": tuple(table["files"])})
    if not sets:
        raise InputError(f"{path} describes no task set")
    return sets


def _wrong(table: Mapping[str, Any]) -> str:
    """Say what the fields of a described set hold that they cannot, "" where all are right."""
    for name, value in table.items():
        expected = _EXPECTED[name]
        if not expected.holds(value):
            return f"has {name} = {value!r}; expected {expected.what}"
    arguments = table.get("arguments", {})
    if table["convert"] != "public":
        try:
            signature(CONVERTERS[table["convert"]]).bind({}, **arguments)
        except TypeError as error:
            return f"has arguments that convert = {table['convert']!r} does not take: {error}"
    for name in ("pattern", "options") if table["convert"] == "prompts" else ():
        try:
            groups = re.compile(arguments.get(name, "")).groupindex
        except (TypeError, re.error) as error:
            return f"has {name} = {arguments[name]!r}, which is no regular expression: {error}"
        if name == "pattern" and not {"text", "question"} <= groups.keys():
            return f"has a pattern with the groups {', '.join(groups) or 'none'}; expected ?P<text> and ?P<question>"
    return ""
