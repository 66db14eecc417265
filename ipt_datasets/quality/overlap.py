"""How alike two texts are: the token F1 of SQuAD, for any language, and the best matching of two sets of pairs."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from math import fsum

from ipt_datasets.schema import Pair

ARTICLES = frozenset({"a", "an", "the"})
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u3040-\u30ff\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
"""Scripts written without spaces: each of their characters counts as a word."""

WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
"""A word as white space parts them, or a character of an unspaced script."""

_JOINING = frozenset("’‘“”´′")


class _Kept(dict[int, str]):
    """What becomes of each character, found out when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] in "LNM":
            kept = character
        elif category == "Cf" or character in _JOINING or (category[0] in "PS" and code < 128):
            kept = ""  # as in SQuAD, where "don't" is one word; other marks, such as a dash, stand between words
        else:
            kept = " "
        self[code] = kept
        return kept


_KEPT = _Kept()


def words(text: str) -> list[str]:
    """Give the words of a text: in lower case, without punctuation and symbols, articles kept."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold().translate(_KEPT))


def tokens(text: str) -> list[str]:
    """Give the words of a text without English articles, as SQuAD compares answers.

    Where nothing is left ("A", "%"), what stands there is compared as it is; only blank texts have no tokens.
    """
    found = words(text)
    return [word for word in found if word not in ARTICLES] or found or text.casefold().split()


def pair_tokens(pair: Pair) -> list[str]:
    """Give the tokens of a pair as one bag: instruction, options and response, the rationale left out."""
    return tokens("\n".join((pair.instruction, *pair.options, pair.response)))


def token_f1(first: Sequence[str] | Counter[str], second: Sequence[str] | Counter[str]) -> float:
    """Give the F1 of two bags of tokens: from 0, nothing shared, to 1, the same tokens as often.

    Two empty bags are alike.
    """
    left, right = Counter(first), Counter(second)
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 1.0


def matched_f1(generated: Sequence[Pair], gold: Sequence[Pair]) -> float:
    """Score pairs about a text against the gold ones, matched one to one to the best total F1.

    Returns:
        The summed F1 of the matched pairs over the number of pairs on the longer side, times 100: what is unmatched on
        either side counts 0. The order of pairs changes nothing.
    """
    from scipy.optimize import linear_sum_assignment

    if not generated or not gold:
        return 0.0 if generated or gold else 100.0
    left, right = ([Counter(pair_tokens(pair)) for pair in pairs] for pairs in (generated, gold))
    scores = [[token_f1(ours, theirs) for theirs in right] for ours in left]
    matched: list[tuple[int, int]] = list(zip(*linear_sum_assignment(scores, maximize=True), strict=True))
    return 100 * fsum(scores[row][column] for row, column in matched) / max(len(left), len(right))


def holds_alike(bags: Sequence[Sequence[str]], least: float = 0.9) -> bool:
    """Whether two of these token lists are the same, or have an F1 of at least `least`."""
    if len({tuple(bag) for bag in bags}) < len(bags):
        return True
    counted = sorted((Counter(bag) for bag in bags), key=Counter.total)
    for at, shorter in enumerate(counted):
        for longer in counted[at + 1 :]:
            # The F1 is at most this; those behind are longer still.
            if 2 * shorter.total() < least * (shorter.total() + longer.total()):
                break
            if token_f1(shorter, longer) >= least:
                return True
    return False
