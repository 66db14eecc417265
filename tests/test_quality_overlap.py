"""Token F1 on cases worked out by hand, and the matching of pairs against trying every matching."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_datasets.quality.overlap import holds_alike, matched_f1, pair_tokens, token_f1, tokens, words
from ipt_datasets.schema import Pair


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat, sat!", ["cat", "sat"]),
        ("don’t, DON'T", ["dont", "dont"]),
        ("U.S. $10,000", ["us", "10000"]),
        ("war—peace", ["war", "peace"]),
        ("1914–1918", ["1914", "1918"]),
        ("２０ ｋｍ", ["20", "km"]),
        ("Straße ΣΊΣΥΦΟΣ", ["strasse", "σίσυφοσ"]),
        ("東京タワー2号", ["東", "京", "タ", "ワ", "ー", "2", "号"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("서울 타워", ["서울", "타워"]),
        ("soft\u00adware", ["software"]),
        ("A", ["a"]),
        ("The", ["the"]),
        ("%", ["%"]),
        (" \n", []),
        ("", []),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected


def test_words_keep_articles():
    assert words("What is the A-frame?") == ["what", "is", "the", "aframe"]


@pytest.mark.parametrize(
    ("ours", "gold", "expected"),
    [
        ("the cat sat", "a cat", 2 / 3),
        ("not in 1912", "1912", 0.5),
        ("red red blue", "red blue blue", 2 / 3),
        ("yes", "no", 0.0),
        ("", "something", 0.0),
        ("", "", 1.0),
        ("Therefore: YES.", "therefore yes", 1.0),
    ],
)
def test_f1_on_known_cases(ours, gold, expected):
    assert token_f1(tokens(ours), tokens(gold)) == pytest.approx(expected)


def test_a_pair_is_one_bag_without_its_rationale():
    pair = Pair("Which is the sum?", "four", ("four", "five"), "Two and two make four")
    assert sorted(pair_tokens(pair)) == ["five", "four", "four", "is", "sum", "which"]


WORDS = st.lists(st.sampled_from(["cat", "dog", "sat", "ran", "yes", "no", "1", "2"]), min_size=1, max_size=5)
PAIRS = st.builds(lambda first, second: Pair(" ".join(first), " ".join(second)), WORDS, WORDS)
SETS = st.lists(PAIRS, max_size=4)


def by_trying_all(ours, gold):
    shorter, longer = sorted((ours, gold), key=len)
    best = max(
        sum(token_f1(pair_tokens(a), pair_tokens(b)) for a, b in zip(shorter, chosen, strict=True))
        for chosen in permutations(longer, len(shorter))
    )
    return 100 * best / len(longer)


@settings(max_examples=150)
@given(ours=SETS, gold=SETS, data=st.data())
def test_the_matching_is_the_best_there_is(ours, gold, data):
    score = matched_f1(ours, gold)
    assert 0 <= score <= 100
    assert score == pytest.approx(matched_f1(gold, ours))
    assert score == pytest.approx(matched_f1(data.draw(st.permutations(ours)), data.draw(st.permutations(gold))))
    assert matched_f1(ours, data.draw(st.permutations(ours))) == pytest.approx(100)
    if ours and gold:
        assert score == pytest.approx(by_trying_all(ours, gold))
    else:
        assert score == (0 if ours or gold else 100)


def test_a_greedy_matching_would_be_worse():
    ours = [Pair("a1 a2 a3", "a4"), Pair("a1 a2 a3", "b1")]
    gold = [Pair("a1 a2 a3", "b1"), Pair("c1 c2", "b1")]
    # (first, first) 3/4 and (second, second) 2*1/7; or (first, second) 0 and (second, first) 1.
    assert matched_f1(ours, gold) == pytest.approx(100 * (3 / 4 + 2 / 7) / 2)


def test_the_number_of_pairs_counts():
    gold = [Pair("Who waits?", "the heron"), Pair("Where?", "at the river")]
    assert matched_f1(gold[:1], gold) == 50
    assert matched_f1([*gold, Pair("zebra", "zebra"), Pair("zebra", "zebra")], gold) == 50


BAGS = st.lists(st.lists(st.sampled_from("abcdefghijkl"), max_size=22), max_size=5)


@settings(max_examples=300)
@given(bags=BAGS, copied=st.booleans(), dropped=st.integers(0, 21))
def test_what_is_alike_is_found_as_by_comparing_all(bags, copied, dropped):
    if copied and bags:
        bags.append(bags[0][:dropped] + bags[0][dropped + 1 :])
    expected = any(token_f1(a, b) >= 0.9 for at, a in enumerate(bags) for b in bags[at + 1 :])
    assert holds_alike(bags) == expected
