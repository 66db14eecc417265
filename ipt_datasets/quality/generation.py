"""What a synthesizer writes about texts when it is left to itself: counted, and scored against the gold pairs."""

import hashlib
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from math import fsum
from typing import Any

from tqdm.auto import tqdm

from ipt_datasets.quality.counting import KINDS, is_yes_no, kind_of, share
from ipt_datasets.quality.overlap import holds_alike, matched_f1, pair_tokens, tokens, words
from ipt_datasets.quality.rows import TextWithPairs
from ipt_datasets.schema import Pair
from ipt_datasets.synthesis.dealing import SynthesizedRow
from ipt_datasets.synthesis.synthesizer import Synthesizer

GROUNDED = 0.8
"""A response counts as grounded if at least this share of its tokens occurs in the text."""

ALIKE = 0.9
"""Two instructions, or two pairs, of one text are alike from this token F1 on."""

OPENING_WORDS = 3

WHOLE = frozenset({"duplicate", "over_limit", "unfinished"})
"""Rejects that say nothing against the markup of a completion."""


def synthesized(
    synthesizer: Synthesizer, rows: Iterable[TextWithPairs]
) -> Iterator[tuple[str, list[Pair], SynthesizedRow]]:
    """Give each text with its gold pairs and what the synthesizer made of it, in order."""
    waiting: deque[TextWithPairs] = deque()

    def texts() -> Iterator[str | None]:
        for text, gold in rows:
            waiting.append((text, gold))
            yield text

    for row in tqdm(synthesizer.synthesize(texts()), desc="texts", unit=" texts", disable=None):
        text, gold = waiting.popleft()
        yield text or "", gold, row


def pairs_of(row: SynthesizedRow) -> list[Pair]:
    """Give the pairs of all windows of a text."""
    return [pair for shot in row.shots for pair in shot.pairs]


class GenerationCount:
    """Counts what one pass over the rows wrote.

    Texts that were not asked about (empty, too long) and texts of which the engine lost a completion count in
    `statuses` and `engine_errors`, and nowhere else.

    Attributes:
        quality: the pair quality of each text by its number, 0 to 100, for those with gold pairs.
        behind_others: the numbers of the texts with gold pairs all of whose prompts held an earlier shot.
    """

    def __init__(self) -> None:
        self.quality: dict[int, float] = {}
        self.behind_others: list[int] = []
        self._statuses: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._openings: Counter[str] = Counter()
        self._instructions: set[bytes] = set()
        self._pairs_a_text = array("l")
        self._token_shares = array("d")
        self._rows = self._errors = self._completions = self._tokens = self._by_length = 0
        self._clean = self._parsed = 0
        self._yes_no = self._grounded = self._spans = self._repeated = self._alike = self._alike_pairs = 0

    def add(self, text: str, gold: list[Pair], row: SynthesizedRow) -> float | None:
        """Count one text; gives its pair quality, None where it has none."""
        number, self._rows = self._rows, self._rows + 1
        self._statuses[row.status] += 1
        errors = sum(shot.finish_reason == "error" for shot in row.shots)
        self._errors += errors
        if errors or not row.shots:
            return None
        for shot in row.shots:
            self._completions += 1
            self._tokens += shot.completion_tokens
            reasons = {piece.reason for piece in shot.rejected}
            has_pairs = bool(shot.pairs) or "over_limit" in reasons
            # What max_pairs left out is no fault of the completion.
            self._clean += has_pairs and not reasons - {"over_limit"}
            self._parsed += has_pairs and not reasons - WHOLE
            self._by_length += shot.finish_reason == "length"
            self._rejected.update(piece.reason for piece in shot.rejected)
        pairs = pairs_of(row)
        self._pairs_a_text.append(len(pairs))
        self._count_pairs(text, pairs)
        if not gold:
            return None
        self.quality[number] = matched_f1(pairs, gold)
        if all(shot.follows for shot in row.shots):
            self.behind_others.append(number)
        return self.quality[number]

    def _count_pairs(self, text: str, pairs: list[Pair]) -> None:
        text_tokens = tokens(text)
        known, line = set(text_tokens), f" {' '.join(text_tokens)} "
        responses: set[tuple[str, ...]] = set()
        for pair in pairs:
            kind, response = kind_of(pair), tokens(pair.response)
            self._kinds[kind] += 1
            self._yes_no += is_yes_no(pair)
            self._openings[" ".join(words(pair.instruction)[:OPENING_WORDS])] += 1
            self._instructions.add(_digest(tokens(pair.instruction)))
            if is_yes_no(pair):
                continue
            self._repeated += tuple(response) in responses
            responses.add(tuple(response))
            if kind == "free_form":
                found = sum(token in known for token in response) / max(len(response), 1)
                self._token_shares.append(found)
                self._grounded += found >= GROUNDED
                self._spans += f" {' '.join(response)} " in line
        self._alike += holds_alike([tokens(pair.instruction) for pair in pairs], ALIKE)
        self._alike_pairs += holds_alike([pair_tokens(pair) for pair in pairs], ALIKE)

    def numbers(self) -> dict[str, Any]:
        """Give what `MEASURES` names, by group: quality, yield, grounding, kinds and variety."""
        texts, counts, responses = len(self._pairs_a_text), self._pairs_a_text, len(self._token_shares)
        pairs = sum(counts)
        behind = [self.quality[number] for number in self.behind_others]
        return {
            "statuses": dict(sorted(self._statuses.items())),
            "engine_errors": self._errors,
            "quality": {
                "all_shots": share(fsum(self.quality.values()), len(self.quality)),
                "texts": len(self.quality),
                "few_shot": share(fsum(behind), len(behind)),
                "few_shot_texts": len(behind),
            },
            "yield": {
                "texts": texts,
                "texts_with_pairs_share": share(sum(count > 0 for count in counts), texts),
                "pairs": pairs,
                "pairs_a_text": share(pairs, texts),
                "fewest_pairs": min(counts, default=None),
                "most_pairs": max(counts, default=None),
                "completions": self._completions,
                "tokens_a_pair": share(self._tokens, pairs),
                "parsed_share": share(self._parsed, self._completions),
                "clean_share": share(self._clean, self._completions),
                "by_length_share": share(self._by_length, self._completions),
                "rejected": dict(sorted(self._rejected.items())),
            },
            "grounding": {
                "responses": responses,
                "grounded_share": share(self._grounded, responses),
                "mean_token_share": share(fsum(self._token_shares), responses),
                "span_share": share(self._spans, responses),
            },
            "kinds": {
                **{f"{kind}_share": share(self._kinds[kind], pairs) for kind in KINDS},
                "yes_no_share": share(self._yes_no, pairs),
            },
            "variety": {
                "distinct_instructions_share": share(len(self._instructions), pairs),
                "distinct_openings": len(self._openings),
                "top_opening": min(self._openings, key=lambda words: (-self._openings[words], words), default=""),
                "top_opening_share": share(max(self._openings.values(), default=0), pairs),
                "texts_with_alike_instructions_share": share(self._alike, texts),
                "texts_with_alike_pairs_share": share(self._alike_pairs, texts),
                "repeated_responses_share": share(self._repeated, pairs),
            },
        }


def _digest(instruction: list[str]) -> bytes:
    return hashlib.blake2b(" ".join(instruction).encode(errors="replace"), digest_size=8).digest()
