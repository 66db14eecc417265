"""Long texts: windows cover the whole text, fit, and are cut where a reader would cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_datasets.synthesis.engines.scripted import ScriptedTokenizer
from ipt_datasets.synthesis.markup import PAPER
from ipt_datasets.synthesis.prompts import Prompter
from ipt_datasets.synthesis.windows import beginning, split_text

PROMPTER = Prompter(ScriptedTokenizer(), PAPER)
PIECES = ["word ", "A sentence. ", "Ein Satz!\n", "\n\n", "尾部。", "long" * 40, "</END>", "🙂", " \t "]
LEAST = len(PROMPTER.encode_text("")) + 4


@settings(max_examples=100)
@given(
    text=st.lists(st.sampled_from(PIECES) | st.text(max_size=8), min_size=1, max_size=60).map("".join).filter(bool),
    room=st.integers(LEAST, 120),
)
def test_windows_fit_and_together_are_the_text(text, room):
    windows = list(split_text(text, PROMPTER.encode_text, room))
    assert "".join(text[window.start : window.end] for window in windows) == text
    assert all(len(window.ids) <= room for window in windows)
    assert all(window.start < window.end for window in windows)
    assert all(window.ids == PROMPTER.encode_text(text[window.start : window.end]) for window in windows)
    [begins] = PROMPTER.encode_texts([beginning(text, room)])
    assert list(split_text(text, PROMPTER.encode_text, room, begins)) == windows


def test_cuts_are_at_paragraphs_then_sentences():
    paragraphs = [f"Paragraph {n} begins here. " + "It goes on for a while. " * 4 + "It ends." for n in range(6)]
    text = "\n\n".join(paragraphs)
    room = len(PROMPTER.encode_text(text)) // 2
    assert all(text[w.start :].startswith("Paragraph") for w in split_text(text, PROMPTER.encode_text, room))
    one = paragraphs[0] * 5
    pieces = [one[w.start : w.end] for w in split_text(one, PROMPTER.encode_text, 60)]
    assert len(pieces) > 3
    assert all(piece.rstrip().endswith(".") for piece in pieces)


def test_a_cjk_text_is_cut_behind_its_full_stops():
    text = "海の風が吹く。船は港に帰る。" * 40
    pieces = [text[w.start : w.end] for w in split_text(text, PROMPTER.encode_text, 60)]
    assert len(pieces) >= 5
    assert all(piece.endswith("。") for piece in pieces)


def test_no_cut_before_a_combining_character():
    text = "e\u0301" * 300
    assert all(text[w.start] == "e" for w in split_text(text, PROMPTER.encode_text, 40))


def test_a_long_text_is_never_encoded_whole():
    longest = 0

    def encode(stretch: str) -> list[int]:
        nonlocal longest
        longest = max(longest, len(stretch))
        return PROMPTER.encode_text(stretch)

    text = "The tide comes in and the tide goes out. " * 50_000
    windows = split_text(text, encode, 500)
    assert next(windows).start == 0
    assert longest < 10_000
    assert sum(w.end - w.start for w in windows) > 2_000_000
    assert longest < 10_000


def test_a_character_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="one character"):
        list(split_text("abc", lambda stretch: [0] * 50, 40))
