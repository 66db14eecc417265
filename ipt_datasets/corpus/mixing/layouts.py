"""How a row becomes the text of a document: texts as they are, instructions as `{question} {response}`, one space.

A source is read by its column names where these are one of the layouts below, else by columns that the user names.
System prompts are dropped everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Features, List, Value

from ipt_datasets.errors import InputError

STRING_TYPES = ("string", "large_string", "string_view")

SKIP_REASONS: Mapping[str, str] = {
    "empty": "no text, question or response: null, empty or only white space",
    "not_unicode": "holds a lone surrogate, which no tokenizer and no Parquet file can hold",
    "no_turns": "not a conversation of a user's and an assistant's texts in turn",
}
"""Why a row is passed over; the audit counts them."""

QUESTION_RESPONSE = (
    ("question", "response"),  # OpenOrca
    ("instruction", "response"),
    ("instruction", "output"),
    ("prompt", "completion"),
    ("inputs", "targets"),
)
CONTEXTS = ("input", "context")
CONVERSATIONS = ("messages", "conversations")
USERS, ASSISTANTS, SYSTEMS = ("user", "human"), ("assistant", "gpt"), ("system", "developer")

Row = Mapping[str, Any]


class Skipped(Exception):
    """A row has no document; the reason is one of SKIP_REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a source are read.

    Attributes:
        description: in words, for the audit.
        read: gives the text of a row, or raises `Skipped`.
    """

    description: str
    read: Callable[[Row], str]


def find_layout(features: Features, columns: Sequence[str] | None, name: str, source: str) -> Layout:
    """Tell how the rows of a source are read.

    Args:
        features: of the source.
        columns: named by the user: one of texts or of conversations, or one of questions and one of responses; None:
            known by their names.
        name: of the source in the mixture, for messages.
        source: as the user gave it, for messages.

    Raises:
        InputError: a column is not there or holds something else, no layout fits, or two do.
    """
    there = ", ".join(f"{column} ({_type_of(feature)})" for column, feature in features.items())
    flag = f"say which with --columns {name}=TEXT or --columns {name}=QUESTION:RESPONSE"
    if columns is not None:
        return _named(features, columns, f"{source} (source {name!r})", there)
    found = _known(features)
    if not found:
        raise InputError(
            f"{source} (source {name!r}) is neither texts nor instructions by its columns: {there}; {flag}"
        )
    if len(found) > 1:
        readings = " or as ".join(layout.description for layout in found)
        raise InputError(f"{source} (source {name!r}) can be read as {readings}; {flag}")
    return found[0]


def checked_text(text: Any) -> str:
    """Give a text that can be a document, or a part of one.

    Raises:
        Skipped: it cannot.
    """
    if text is None or (isinstance(text, str) and not text.strip()):
        raise Skipped("empty")
    if not isinstance(text, str):
        raise Skipped("no_turns")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Skipped("not_unicode") from None
    return text


def _named(features: Features, columns: Sequence[str], source: str, there: str) -> Layout:
    if len(columns) not in (1, 2):
        raise InputError(f"{':'.join(columns)!r} for {source}: expected TEXT or QUESTION:RESPONSE")
    for column in columns:
        if column not in features:
            raise InputError(f"{source} has no column {column!r}; its columns: {there}; choose with --columns")
        if not _is_text(features[column]) and not (len(columns) == 1 and _is_conversation(features[column])):
            kind = "strings or a conversation" if len(columns) == 1 else "strings"
            raise InputError(
                f"column {column!r} of {source} holds {_type_of(features[column])}, expected {kind}; its columns: "
                f"{there}; choose with --columns"
            )
    if len(columns) == 2:
        return _pair_layout(columns[0], columns[1])
    return _text_layout(columns[0]) if _is_text(features[columns[0]]) else _conversation_layout(columns[0])


def _known(features: Features) -> list[Layout]:
    found = [_text_layout("text")] if _is_text(features.get("text")) else []
    for question, response in QUESTION_RESPONSE:
        if _is_text(features.get(question)) and _is_text(features.get(response)):
            contexts = [column for column in CONTEXTS if _is_text(features.get(column))]
            takes_context = question == "instruction" and len(contexts) == 1
            found.append(_pair_layout(question, response, contexts[0] if takes_context else None))
        elif _is_conversation(features.get(question)) and _is_conversation(features.get(response)):
            found.append(_conversation_layout(question, response))
    return [*found, *(_conversation_layout(name) for name in CONVERSATIONS if _is_conversation(features.get(name)))]


def _text_layout(column: str) -> Layout:
    return Layout(f"texts: {column}", lambda row: checked_text(row[column]))


def _pair_layout(question: str, response: str, context: str | None = None) -> Layout:
    def read(row: Row) -> str:
        asked = checked_text(row[question])
        if context is not None and (row[context] or "").strip():
            asked = f"{asked}\n{checked_text(row[context])}"
        return f"{asked} {checked_text(row[response])}"

    between = "" if context is None else f"\\n{{{context}}}"
    return Layout(f"instructions: {{{question}}}{between} {{{response}}}", read)


def _conversation_layout(*columns: str) -> Layout:
    """Read turns of a user and an assistant: `{question} {response}`, exchanges parted by a blank line."""

    def read(row: Row) -> str:
        turns = [_turn(turn) for column in columns for turn in row[column] or ()]
        texts = [text for role, text in turns if role not in SYSTEMS]
        roles = [role for role, _ in turns if role not in SYSTEMS]
        users, assistants = roles[::2], roles[1::2]
        if not roles or len(users) != len(assistants) or {*users} - {*USERS} or {*assistants} - {*ASSISTANTS}:
            raise Skipped("no_turns")
        checked = [checked_text(text) for text in texts]
        pairs = zip(checked[::2], checked[1::2], strict=True)
        return "\n\n".join(f"{question} {response}" for question, response in pairs)

    return Layout(f"conversations: {' + '.join(columns)}", read)


def _turn(turn: Any) -> tuple[Any, Any]:
    if not isinstance(turn, Mapping):
        raise Skipped("no_turns")
    role = turn["role"] if "role" in turn else turn.get("from")
    return role, turn["content"] if "content" in turn else turn.get("value")


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in STRING_TYPES


def _is_conversation(feature: Any) -> bool:
    turn = feature.feature if isinstance(feature, List) else None
    return isinstance(turn, dict) and ({"role", "content"} <= turn.keys() or {"from", "value"} <= turn.keys())


def _type_of(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, Value) else type(feature).__name__.lower()
