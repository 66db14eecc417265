"""Rows to documents: which shots make one text, and what each of them shows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ipt_datasets.errors import InputError
from ipt_datasets.schema import Pair


class RowError(InputError, ValueError):
    """A row contradicts itself; the message names it."""


class Shot(NamedTuple):
    """One window of a raw text with its pairs.

    Attributes:
        position: its place in its chain.
        context: the characters of the text that it shows.
        pairs: what was written about them; empty for plain text.
        row: the id of its row.
    """

    position: int
    context: str
    pairs: Sequence[Pair]
    row: str


class Document(NamedTuple):
    """The shots that make one text, in order of position; one without pairs is alone in its document."""

    chain: str
    shots: list[Shot]


class Row(NamedTuple):
    """A row as synthesis left it; `pairs` and `shots` as in `schema.SYNTHESIS_FEATURES`."""

    id: str
    text: str | None
    pairs: Sequence[Mapping[str, Any]] | None
    shots: Sequence[Mapping[str, Any]] | None


def read_documents(rows: Sequence[Row], on_headless: Callable[[str, int], None]) -> list[Document]:
    """Group the shots of `rows` into documents, in the order in which the documents begin.

    A document ends where the position in its chain does not rise; other chains and rows without shots may stand between
    the shots of a chain. A shot without pairs is a document of its own; a row without any pair is one, with its whole
    text. A text that is null, blank, or no valid Unicode (which no Parquet file can hold) gives none.

    Args:
        rows: in the order of the dataset.
        on_headless: called with chain and position where the first shot that is seen of a chain is not its first.

    Raises:
        RowError: a row's pairs and shots do not belong together.
    """
    documents: list[Document] = []
    last_positions: dict[str, int] = {}
    open_documents: dict[str, Document] = {}
    for row in rows:
        shots = read_shots(row)
        if not any(shot.pairs for _, shot in shots) and row.text is not None and _storable(row.text):
            # Whole, also where it was read in windows.
            documents.append(Document(shots[0][0] if shots else "", [Shot(0, row.text, (), row.id)]))
        for chain, shot in shots:
            if chain and chain not in last_positions and shot.position > 0:
                on_headless(chain, shot.position)
            if not chain or shot.position <= last_positions.get(chain, -1):
                open_documents.pop(chain, None)
            last_positions[chain] = shot.position
            if not shot.pairs:
                if _storable(shot.context) and any(other.pairs for _, other in shots):
                    documents.append(Document(chain, [shot]))
            elif chain in open_documents:
                open_documents[chain].shots.append(shot)
            else:
                open_documents[chain] = Document(chain, [shot])
                documents.append(open_documents[chain])
    return documents


def read_shots(row: Row) -> list[tuple[str, Shot]]:
    """Give the shots of a row with their chains; together their contexts are the whole text.

    Raises:
        RowError: see `read_documents`.
    """
    shots = () if row.shots is None else row.shots
    text = "" if row.text is None else row.text
    if not isinstance(text, str):
        raise RowError(f"row {row.id}: the text is {type(text).__name__}, expected a string; cast the column to string")
    pairs: list[list[Pair]] = [[] for _ in shots]
    for at, pair in enumerate(() if row.pairs is None else row.pairs):
        shot = pair["shot"]
        if shot is None or not 0 <= shot < len(pairs):
            raise RowError(f"row {row.id}: pairs[{at}] names shot {shot}, but the row has {len(pairs)} shots")
        instruction, response, options = pair["instruction"], pair["response"], pair.get("options")
        if instruction is None or response is None:
            raise RowError(f"row {row.id}: pairs[{at}] has no instruction or no response; remove that pair")
        given = () if options is None else tuple([option for option in options if option is not None])
        pairs[shot].append(Pair(instruction, response, given, pair.get("rationale") or ""))
    return [
        (shot["chain"] or "", Shot(shot["position"] or 0, context, pairs[at], row.id))
        for at, (shot, context) in enumerate(zip(shots, _contexts(row.id, text, shots), strict=True))
    ]


def _contexts(row: str, text: str, shots: Sequence[Mapping[str, Any]]) -> list[str]:
    if len(shots) < 2:
        return [text] * len(shots)
    if any(shot["start"] is None or shot["end"] is None for shot in shots):
        raise RowError(f"row {row}: a shot has no start or no end; they are needed where a text has several shots")
    contexts = [""] * len(shots)
    in_order = sorted(range(len(shots)), key=lambda at: shots[at]["start"])
    begin = 0
    for at, following in zip(in_order, [*in_order[1:], None], strict=True):
        if shots[at]["end"] > len(text):
            raise RowError(
                f"row {row}: a shot ends at {shots[at]['end']}, the text at {len(text)}; was it changed since?"
            )
        # What no window covers, in between or at the end, goes to the window before it.
        end = len(text) if following is None else max(shots[at]["end"], shots[following]["start"])
        contexts[at] = text[begin:end]
        begin = end if following is None else min(shots[following]["start"], end)
    return contexts


def _storable(text: str) -> bool:
    if not text or text.isspace():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
