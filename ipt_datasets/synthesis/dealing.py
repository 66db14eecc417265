"""Deals raw texts into chains, and finished shots back to the rows they came from."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

from ipt_datasets.errors import InputError
from ipt_datasets.recipe import Recipe
from ipt_datasets.schema import Rejected
from ipt_datasets.synthesis.chains import Shot, Stretch, chain_id, run_chain
from ipt_datasets.synthesis.engines import Completion
from ipt_datasets.synthesis.prompts import Prompter
from ipt_datasets.synthesis.schedule import Job
from ipt_datasets.synthesis.windows import beginning, split_text

ENCODED_AT_ONCE = 32
"""Texts are read and encoded in batches of so many, which costs less than each by itself."""


class Journal(Protocol):
    """Keeps the completions of chains, so that a later run need not ask for them again.

    A chain is named by the row and the character where it begins and by the hash of its texts: where texts are
    repeated, each has its own.
    """

    def known(self, row: int, start: int, chain: str) -> Sequence[Completion]:
        """Give the first completions of a chain, as far as an earlier run had them."""

    def keep(self, row: int, start: int, chain: str, completion: Completion) -> None:
        """Take the next completion of a chain."""


@dataclass(slots=True)
class SynthesizedRow:
    """What synthesis adds to one raw text.

    Attributes:
        status: from `schema.STATUSES`.
        shots: the text's windows, in order; each with its pairs and what was rejected.
        ends_chain: whether no chain goes on behind this row.
    """

    status: str = ""
    shots: list[Shot] = field(default_factory=list)
    ends_chain: bool = True

    def columns(self) -> dict[str, Any]:
        """Give the values of the added columns."""
        return {
            "pairs": [pair.to_row(number) for number, shot in enumerate(self.shots) for pair in shot.pairs],
            "shots": [shot.to_row() for shot in self.shots],
            "rejected": [
                {"reason": piece.reason, "text": piece.text, "shot": number}
                for number, shot in enumerate(self.shots)
                for piece in shot.rejected
            ],
            "status": self.status,
        }


class Dealer:
    """Deals texts into chains as they are asked for, and puts the finished shots back to their rows, in order.

    Args:
        texts: the raw texts; read only as far as chains are asked for.
        recipe: how many shots make a chain, and what becomes of long texts.
        prompter: encodes texts.
        max_model_len: the engine's.
        on_shot: called with each shot as soon as it is parsed, but not with those that the journal knew.
        select: tells which texts are asked about; None: all.
        journal: what keeps completions from run to run.
        first_row: the number of the first row.
        block_rows: chains end before each row whose number is a multiple of it; None: only where the texts do.
    """

    def __init__(
        self,
        texts: Iterable[str | None],
        recipe: Recipe,
        prompter: Prompter,
        max_model_len: int,
        on_shot: Callable[[Shot], None] | None = None,
        *,
        select: Callable[[str | None], bool] | None = None,
        journal: Journal | None = None,
        first_row: int = 0,
        block_rows: int | None = None,
    ) -> None:
        self._on_shot, self._select, self._journal = on_shot, select, journal
        self._block_rows = block_rows
        self._texts, self._recipe, self._prompter, self._max_model_len = texts, recipe, prompter, max_model_len
        self._room = max_model_len - recipe.max_new_tokens - prompter.overhead
        self._rows: deque[SynthesizedRow] = deque()
        self._missing: deque[int] = deque()  # shots that a row still waits for
        self._first = first_row  # the number of the row at the head of the queue

    def jobs(self) -> Iterator[Job[list[Shot]]]:
        """Give one chain after the other, `shots` windows each; the last may be shorter.

        Raises:
            InputError: a text that is neither a string nor None.
        """
        dealt: list[Stretch] = []
        for number, text, status, begins in self._read_ahead():
            row = SynthesizedRow(status)
            self._rows.append(row)
            self._missing.append(0 if row.status else 1)  # 1 keeps the row open until all its windows are dealt
            if not row.status:
                for stretch in self._stretches(number, text or "", begins, row):
                    self._missing[number - self._first] += 1
                    dealt.append(stretch)
                    if len(dealt) == self._recipe.shots:
                        yield self._job(dealt)
                        dealt = []
                self._missing[number - self._first] -= 1
            if dealt and self._block_rows and (number + 1) % self._block_rows == 0:
                yield self._job(dealt)
                dealt = []
            row.ends_chain = not dealt
        if dealt:
            self._rows[-1].ends_chain = True
            yield self._job(dealt)

    def take(self, shots: list[Shot]) -> None:
        """Put the shots of a finished chain back to their rows."""
        for shot in shots:
            self._rows[shot.row - self._first].shots.append(shot)
            self._missing[shot.row - self._first] -= 1

    def finished_rows(self) -> Iterator[SynthesizedRow]:
        """Give the rows that are finished and before which none is open."""
        while self._rows and not self._missing[0]:
            row = self._rows.popleft()
            self._missing.popleft()
            self._first += 1
            row.shots.sort(key=lambda shot: shot.start)
            row.status = row.status or _status_after(row.shots)
            if self._recipe.max_pairs is not None:
                row.shots = self._limited(row.shots, self._recipe.max_pairs)
            yield row

    def _read_ahead(self) -> Iterator[tuple[int, str | None, str, list[int]]]:
        """Give the number of each text, the text, its status if it is not asked about, and the ids of its beginning."""
        texts = enumerate(self._texts, self._first)
        is_last = False
        while not is_last:
            group: list[tuple[int, str | None, str]] = []
            failure = None
            try:
                for number, text in islice(texts, ENCODED_AT_ONCE):
                    status = _status_before(text, number, self._recipe.text_column)
                    if self._select and not self._select(text):
                        status = "not_selected"
                    group.append((number, text, status))
            except Exception as error:  # what was read before it still has its turn
                failure = error
            beginnings = [beginning(text or "", self._room) for _, text, status in group if not status]
            encoded = iter(self._prompter.encode_texts(beginnings))
            for number, text, status in group:
                yield number, text, status, [] if status else next(encoded)
            if failure:
                raise failure
            is_last = len(group) < ENCODED_AT_ONCE

    def _stretches(self, number: int, text: str, begins: list[int], row: SynthesizedRow) -> Iterator[Stretch]:
        """Give the windows of a text that are read; none where the recipe skips long texts and this is one."""
        limit = 1 if self._recipe.long_texts == "truncate" else self._recipe.max_windows
        windows = split_text(text, self._prompter.encode_text, self._room, begins)
        taken = 0
        try:
            for window in windows:
                if self._recipe.long_texts == "skip" and window.end < len(text):
                    row.status = "too_long"
                    return
                stretch = text[window.start : window.end]
                if stretch.strip():
                    taken += 1
                    yield Stretch(number, stretch, window.start, window.end, window.ids)
                if taken == limit:
                    return
        except ValueError:
            # One character takes more tokens than a prompt has room for: there is nothing to cut.
            row.status = "" if taken else "too_long"

    def _limited(self, shots: list[Shot], room: int) -> list[Shot]:
        """Keep the first pairs of a text; the others are named and not lost. Prompts had them all."""
        limited = []
        for shot in shots:
            kept, over = shot.pairs[:room], shot.pairs[room:]
            named = tuple(Rejected("over_limit", self._prompter.markup.render_pairs([pair]).strip()) for pair in over)
            limited.append(shot._replace(pairs=kept, rejected=shot.rejected + named))
            room -= len(kept)
        return limited

    def _job(self, dealt: list[Stretch]) -> Job[list[Shot]]:
        known: Sequence[Completion] = ()
        keep = None
        id_ = chain_id(dealt)
        if self._journal:
            place = dealt[0].row, dealt[0].start, id_
            known, keep = self._journal.known(*place), partial(self._journal.keep, *place)
        on_shot = partial(self._report, len(known)) if self._on_shot else None
        chain = run_chain(dealt, self._prompter, self._recipe, self._max_model_len, on_shot, chain=id_)
        return Job(chain, sum(len(stretch.ids) for stretch in dealt), len(dealt), known, keep)

    def _report(self, n_known: int, shot: Shot) -> None:
        if self._on_shot and shot.position >= n_known:
            self._on_shot(shot)


def _status_before(text: object, number: int, column: str) -> str:
    """Give the status of a text that is not asked about, else ""."""
    if text is None:
        return "empty"
    if not isinstance(text, str):
        raise InputError(
            f"column {column!r} holds {type(text).__name__} in row {number} ({text!r:.60}); expected strings; "
            "cast the column, or name another with text_column="
        )
    if not text.strip():
        return "empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "not_unicode"
    return ""


def _status_after(shots: Sequence[Shot]) -> str:
    if any(shot.pairs for shot in shots):
        return "ok"
    return "engine_error" if any(shot.finish_reason == "error" for shot in shots) else "no_pairs"
