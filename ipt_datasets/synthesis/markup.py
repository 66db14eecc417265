r"""How a shot is written for a synthesizer, and how pairs are read from what it writes back: inverse to each other.

A markup is a value. `PAPER` holds the tags that the released synthesizers were tuned on (Cheng et al. 2024,
arXiv 2406.14491, appendix A); `PLAIN` uses plain words, for base models behind a primer; `CHAT` puts the plain words
into the turns of a chat. Whatever the markup, the same pairs come out.

The escape. A tag or control token inside a raw text or a pair would end the text, inject a pair or become a control
id. Where one stands, a backslash is written behind its first character (`</END>` as `<\/END>`, `<s>` as `<\s>`);
labels that act at the beginning of a line get it in front (`Answer:` as `\Answer:`). Text that already looks escaped
gets one backslash more, so `unescape(escape(text)) == text` for every text. Only prompts hold escapes: pairs are
read back without them and the corpus keeps every raw text as it was.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

from ipt_datasets.schema import Pair, ParsedCompletion, Rejected

OPTIONS_LABEL = "Options:"
OPTIONS_LINE = f"{OPTIONS_LABEL}\n- "
STEP_LINE = "Let's think step by step."
CONCLUSION = "Therefore, the answer is "


@dataclass(frozen=True)
class Markup:
    """How shots are written for a model.

    Attributes:
        name: "paper", "plain" or "chat".
        text_open: stands before the raw text.
        text_close: stands behind it; the completion follows.
        question: begins a pair.
        answer: stands between the question and the answer.
        pair_end: ends a pair; empty where the next question's label or the end of the completion does.
        delimiter: stands between pairs.
        tags: strings that act wherever they stand.
        labels: strings that act at the beginning of a line.
        prefill: the beginning of the completion that the prompt already holds.
        stop: strings behind which nothing belongs to the shot any more.
        is_chat: whether shots are turns of the model's chat template.
        control_tokens: the tokenizer's control and added tokens, which must never come from text.
    """

    name: Literal["paper", "plain", "chat"]
    text_open: str
    text_close: str
    question: str
    answer: str
    pair_end: str = ""
    delimiter: str = "\n\n"
    tags: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    prefill: str = ""
    stop: tuple[str, ...] = ()
    is_chat: bool = False
    control_tokens: tuple[str, ...] = ("<s>", "</s>")

    @cached_property
    def _acting(self) -> "Escape":
        return Escape(tags=self.tags + self.control_tokens, line_patterns=[re.escape(label) for label in self.labels])

    @cached_property
    def _in_question(self) -> "Escape":
        return Escape(line_patterns=[re.escape(OPTIONS_LINE), re.escape(STEP_LINE) + r"\Z"])

    @cached_property
    def _in_option(self) -> "Escape":
        return Escape(line_patterns=["- ", rf"{OPTIONS_LABEL}\Z", re.escape(STEP_LINE) + r"\Z"])

    @cached_property
    def _in_answer(self) -> "Escape":
        return Escape(line_patterns=[re.escape(CONCLUSION)])

    @cached_property
    def _marks(self) -> tuple[str, str]:
        return self.question.strip(), self.answer.strip()

    def escape(self, text: str) -> str:
        """Write text such that nothing in it acts as markup or as a control token."""
        return self._acting.escape(text)

    def unescape(self, text: str) -> str:
        """Undo `escape`."""
        return self._acting.unescape(text)

    def render_text(self, text: str) -> str:
        """Write the part of a shot that stands before the completion."""
        return f"{self.text_open}{self.escape(text)}{self.text_close}"

    def render_pairs(self, pairs: Iterable[Pair]) -> str:
        """Write pairs as a synthesizer would, without the prefill; `parse` is the inverse."""
        rendered = self.delimiter.join(
            f"{self.question}{self.render_question(pair)}{self.answer}{self.render_answer(pair)}{self.pair_end}"
            for pair in pairs
        )
        return rendered.removeprefix(self.prefill)

    def parse(self, completion: str, finish_reason: str = "stop") -> ParsedCompletion:
        """Read the pairs of a completion, in order; what is not a pair is kept with its reason.

        Never raises, whatever the completion holds; takes time linear in its length.

        Args:
            completion: what the model wrote behind the prompt, the prefill not included.
            finish_reason: "length" tells that the last piece was cut off, where the markup itself cannot tell.
        """
        shot, behind = self.cut(self.prefill + completion)
        pieces, unfinished = self._pieces(shot, finish_reason)
        pairs: list[Pair] = []
        rejected: list[Rejected] = []
        seen: set[str] = set()
        for piece in pieces:
            found = self._parse_piece(piece)
            if isinstance(found, str):
                rejected.append(Rejected(found, piece.strip()))
                continue
            question, pair = found
            if question in seen:
                rejected.append(Rejected("duplicate", piece.strip()))
                continue
            seen.add(question)
            pairs.append(pair)
        if unfinished.strip():
            rejected.append(Rejected("unfinished", unfinished.strip()))
        if behind.strip():
            rejected.append(Rejected("behind_the_end", behind.strip()))
        return ParsedCompletion(tuple(pairs), tuple(rejected))

    def cut(self, completion: str) -> tuple[str, str]:
        """Give what belongs to the shot, and what stands behind the first stop string."""
        found = [(completion.find(stop), stop) for stop in self.stop]
        first, stop = min(((at, stop) for at, stop in found if at >= 0), default=(-1, ""))
        return (completion, "") if first < 0 else (completion[:first], completion[first + len(stop) :])

    def _pieces(self, shot: str, finish_reason: str) -> tuple[list[str], str]:
        """Cut a completion into whole pieces and an unfinished rest."""
        if self.pair_end:
            *pieces, rest = shot.split(self.pair_end.strip())
            return pieces, rest
        starts = [match.start() for match in re.finditer(rf"(?m)^{re.escape(self.question.strip())}", shot)]
        bounds = [0, *(start for start in starts if start), len(shot)]
        pieces = [shot[start:end] for start, end in pairwise(bounds) if shot[start:end].strip()]
        if finish_reason == "length" and pieces:
            return pieces[:-1], pieces[-1]
        return pieces, ""

    def _parse_piece(self, piece: str) -> tuple[str, Pair] | str:
        """Give the question as written, for finding duplicates, and the pair; or the reason why there is none."""
        question_mark, answer_mark = self._marks
        piece = piece.strip()
        if not piece.startswith(question_mark):
            return "no_question"
        parts = piece[len(question_mark) :].split(answer_mark) if self.pair_end else self._lines_split(piece)
        if len(parts) == 1:
            return "no_answer"
        if len(parts) > 2:
            return "several_answers"
        question, answer = parts[0].strip(), parts[1].strip()
        if not question:
            return "empty_question"
        if self.pair_end and question_mark in question:
            return "several_questions"
        if not answer:
            return "empty_answer"
        pair = self.read_pair(question, answer)
        return (question.lower(), pair) if pair.instruction and pair.response else "empty_question"

    def _lines_split(self, piece: str) -> list[str]:
        question_mark, answer_mark = self._marks
        return re.split(rf"(?m)^{re.escape(answer_mark)}", piece[len(question_mark) :])

    def render_question(self, pair: Pair) -> str:
        """Write instruction, options and step-by-step line; each field is escaped by itself, so that `parse` can."""
        question = self.escape(self._in_question.escape(pair.instruction))
        if pair.options:
            listed = "\n- ".join(self.escape(self._in_option.escape(option)) for option in pair.options)
            question += f"\n{OPTIONS_LINE}{listed}"
        return f"{question}\n{STEP_LINE}" if pair.rationale else question

    def render_answer(self, pair: Pair) -> str:
        """Write rationale and response."""
        response = self.escape(self._in_answer.escape(pair.response))
        if not pair.rationale:
            return response
        return f"{self.escape(self._in_answer.escape(pair.rationale))}\n{CONCLUSION}{response}"

    def read_pair(self, question: str, answer: str) -> Pair:
        """Take a question and an answer as written apart into instruction, options, rationale and response."""
        instruction = question = question.removesuffix(f"\n{STEP_LINE}").rstrip()
        options: list[str] = []
        rationale, response = "", answer
        if OPTIONS_LINE in question:
            before, marker, listed = question.rpartition(f"\n{OPTIONS_LINE}")
            options = [option for option in map(str.strip, listed.split("\n- ")) if option] if marker else []
            instruction = before if options else question
        if CONCLUSION in answer:
            lead, marker, conclusion = f"\n{answer}".rpartition(f"\n{CONCLUSION}")
            if marker and conclusion.strip():
                rationale, response = lead.strip(), conclusion
        if "\\" not in question and "\\" not in answer:  # nothing is escaped
            return Pair(instruction.strip(), response.strip(), tuple(options), rationale)
        return Pair(
            instruction=self._read(instruction, self._in_question).strip(),
            response=self._read(response, self._in_answer).strip(),
            options=tuple([self._read(option, self._in_option) for option in options]),
            rationale=self._read(rationale, self._in_answer),
        )

    def _read(self, field: str, inside: "Escape") -> str:
        return inside.unescape(self.unescape(field)) if "\\" in field else field


class Escape:
    """A reversible escape by backslashes: behind the first character of a tag, in front of a line that acts.

    Args:
        tags: strings that act wherever they stand.
        line_patterns: regular expressions of what acts at the beginning of a line.
    """

    def __init__(self, tags: Sequence[str] = (), line_patterns: Sequence[str] = ()) -> None:
        tails: dict[str, list[str]] = {}
        for tag in tags:
            if len(tag) > 1:  # a single character has no inside; the encoder keeps it from becoming a control id
                tails.setdefault(tag[0], []).append(re.escape(tag[1:]))
        heads = [rf"{re.escape(head)}(?=\\*(?:{'|'.join(rest)}))" for head, rest in tails.items()]
        lines = [rf"^(?=\\*(?:{'|'.join(line_patterns)}))"] if line_patterns else []
        acting = "|".join(heads + lines)
        self._add = re.compile(f"(?m)({acting})") if acting else None
        self._remove = re.compile(rf"(?m)({acting})\\") if acting else None

    def escape(self, text: str) -> str:
        """Add one backslash wherever something acts or looks escaped."""
        return self._add.sub(_append_backslash, text) if self._add else text

    def unescape(self, text: str) -> str:
        """Take one backslash away wherever something looks escaped."""
        return self._remove.sub(r"\1", text) if self._remove and "\\" in text else text


_append_backslash: Callable[[re.Match[str]], str] = lambda match: match.group(1) + "\\"  # noqa: E731

PAPER = Markup(
    name="paper",
    text_open=" <CON> ",
    text_close=" </CON>\n\n",
    question="<QUE> ",
    answer=" <ANS> ",
    pair_end=" </END>",
    tags=("<CON>", "</CON>", "<QUE>", "<ANS>", "</END>"),
)
"""The markup of the paper's synthesizers; an end-of-text id follows each finished shot."""

PLAIN = Markup(
    name="plain",
    text_open="Text: ",
    text_close="\n\n",
    question="Question: ",
    answer="\nAnswer: ",
    labels=("Text:", "Question:", "Answer:"),
    prefill="Question:",
    stop=("\nText:",),
)
"""Plain words, for any base model behind a primer."""

CHAT = Markup(
    name="chat",
    text_open=(
        "Read the text and write five different questions about it, each with a short answer taken from the text. "
        'Write every pair as two lines, "Question: ..." and "Answer: ...", with an empty line between the pairs.'
        "\n\nText: "
    ),
    text_close="",
    question="Question: ",
    answer="\nAnswer: ",
    labels=("Text:", "Question:", "Answer:"),
    prefill="Question:",
    stop=("\nText:",),
    is_chat=True,
)
"""Plain words in the turns of a chat, for instruct models."""

MARKUPS: dict[str, Markup] = {markup.name: markup for markup in (PAPER, PLAIN, CHAT)}


def parse_pairs(completion: str) -> ParsedCompletion:
    """Read the pairs of a completion in the paper's markup.

    Returns:
        An object with `.pairs` and `.rejected`, each rejected piece with a reason from `schema.REJECT_REASONS`.
    """
    return PAPER.parse(completion)


def render_prompt(shots: Iterable[tuple[str, Iterable[Any]]], text: str, *, bos: str = "<s>", eos: str = "</s>") -> str:
    """Write a prompt in the paper's markup as a string, for people; what goes to an engine is always token ids.

    Args:
        shots: finished shots, each a raw text and its pairs, which may be anything that `Pair.read` reads.
        text: the raw text to write pairs about.
        bos: the tokenizer's begin-of-text token.
        eos: its end-of-text token.
    """
    history = "".join(
        f"{bos}{PAPER.render_text(shot)}{PAPER.render_pairs(map(Pair.read, pairs))}{eos}" for shot, pairs in shots
    )
    return f"{history}{bos}{PAPER.render_text(text)}"
