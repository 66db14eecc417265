"""Response accuracy: what a synthesizer answers when it is given a text and the gold instruction."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Any

from tqdm.auto import tqdm

from ipt_datasets.errors import RecipeError
from ipt_datasets.quality.counting import KINDS, kind_of, share
from ipt_datasets.quality.overlap import token_f1, tokens
from ipt_datasets.quality.rows import TextWithPairs
from ipt_datasets.recipe import Recipe
from ipt_datasets.schema import Pair
from ipt_datasets.synthesis.engines import Completion, Engine, Request
from ipt_datasets.synthesis.markup import Markup
from ipt_datasets.synthesis.prompts import Prompter
from ipt_datasets.synthesis.schedule import Job, Schedule


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answered to one gold instruction.

    Attributes:
        row: number of the text among the rows.
        question: number of the pair among the text's.
        pair: the gold pair.
        response: the model's, without its rationale; "" where it wrote none.
        finish_reason: "stop", "length" or "error".
    """

    row: int
    question: int
    pair: Pair
    response: str
    finish_reason: str

    @property
    def f1(self) -> float:
        """Token F1 of the response against the gold one, from 0 to 100."""
        return 100 * token_f1(tokens(self.response), tokens(self.pair.response))

    @property
    def is_exact(self) -> bool:
        """Whether both responses have the same tokens in the same order."""
        return tokens(self.response) == tokens(self.pair.response)


def opening(markup: Markup, pair: Pair) -> str:
    """Write what stands behind the text when the model is asked for the pair's response, the prefill left out.

    The white space before the response is left to the model: most tokenizers join it to the word behind it.
    """
    written = f"{markup.question}{markup.render_question(pair)}{markup.answer}"
    return written.removeprefix(markup.prefill).rstrip(" ")


def answer_ends(markup: Markup) -> tuple[str, ...]:
    """Give the strings with which an answer has ended: the pair's end, another question or answer, the shot's end."""
    marks = (markup.question.strip(), markup.answer.strip())
    if markup.pair_end:
        return (markup.pair_end.strip(), *marks, *markup.stop)
    return tuple(dict.fromkeys((*(f"\n{mark}" for mark in marks), *markup.stop)))


def read_response(markup: Markup, written: str) -> str:
    """Read the response, "" for none, from what the model wrote behind `opening`, as far as its answer goes."""
    cuts = [at for at in map(written.find, answer_ends(markup)) if at >= 0]
    answer = written[: min(cuts, default=len(written))].strip()
    return markup.read_pair("", answer).response if answer else ""


def answer_prompt(prompter: Prompter, text_ids: list[int], pair: Pair, budget: int) -> list[int]:
    """Build the prompt that asks for the response to a gold instruction: primer, text, instruction, no earlier shot.

    With the ids of the response behind it, it is what a shot with this one pair is made of.

    Args:
        prompter: of the synthesizer.
        text_ids: what its `encode_text` gave for the text.
        pair: the gold pair.
        budget: how many tokens the prompt may have.

    Raises:
        RecipeError: it is longer.
    """
    ids = prompter.tokenizer.encode_continuation(opening(prompter.markup, pair))
    prompt, _ = prompter.prompt([], text_ids, budget - len(ids))
    return prompt + ids


class Accuracy:
    """Asks every gold instruction of the rows.

    Args:
        engine: runs the requests.
        prompter: builds the prompts.
        recipe: sampling and limits.

    Attributes:
        left_out: number of gold pairs that were not asked: "too_long" for a prompt, or "no_text" to ask about.
    """

    def __init__(self, engine: Engine, prompter: Prompter, recipe: Recipe) -> None:
        self._engine, self._prompter, self._recipe = engine, prompter, recipe
        self.left_out = {"no_text": 0, "too_long": 0}

    def answers(self, rows: Iterable[TextWithPairs]) -> Iterator[Answer]:
        """Give the answers as they come; those to neighbouring questions are under way together.

        Raises:
            EngineError: the engine died.
        """
        # A response is mostly short; the guess is only used until some have been seen.
        schedule = Schedule(self._engine, len(self._prompter.primer), first_guess=32)
        finished = schedule.run(self._jobs(rows))
        bar = tqdm(desc="answers", unit=" answers", disable=None)
        try:
            for _, answer in finished:
                bar.update()
                yield answer
        finally:
            finished.close()
            bar.close()

    def _jobs(self, rows: Iterable[TextWithPairs]) -> Iterator[Job[Answer]]:
        for number, (text, gold) in enumerate(rows):
            if not gold:
                continue
            if not text or not text.strip() or not _is_unicode(text):
                self.left_out["no_text"] += len(gold)
                continue
            text_ids = self._prompter.encode_text(text)
            for question, pair in enumerate(gold):
                budget = self._engine.max_model_len - self._recipe.max_new_tokens
                try:
                    prompt = answer_prompt(self._prompter, text_ids, pair, budget)
                except RecipeError:
                    self.left_out["too_long"] += 1
                    continue
                yield Job(self._ask(Answer(number, question, pair, "", ""), text, prompt), tokens=len(prompt), shots=1)

    def _ask(self, asked: Answer, text: str, prompt: list[int]) -> Generator[Request, Completion, Answer]:
        recipe = self._recipe
        completion = yield Request(
            prompt=prompt,
            max_tokens=recipe.max_new_tokens,
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            repetition_penalty=recipe.repetition_penalty,
            frequency_penalty=recipe.frequency_penalty,
            presence_penalty=recipe.presence_penalty,
            seed=_request_seed(recipe.seed, text, asked.pair.instruction),
            stop=answer_ends(self._prompter.markup),
        )
        response = ""
        if completion.finish_reason != "error":
            written = self._prompter.completion_text(completion.token_ids)
            response = read_response(self._prompter.markup, written)
        return replace(asked, response=response, finish_reason=completion.finish_reason)


class AccuracyCount:
    """Counts answers; those that the engine lost count as `engine_errors` and nowhere else."""

    def __init__(self) -> None:
        # Answers come in whatever order they finish, and only fsum over all of them does not depend on it.
        self._f1 = {kind: array("d") for kind in KINDS}
        self._exact: Counter[str] = Counter()
        self._empty = self._by_length = self._errors = 0

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        if answer.finish_reason == "error":
            self._errors += 1
            return
        kind = kind_of(answer.pair)
        self._f1[kind].append(answer.f1)
        self._exact[kind] += answer.is_exact
        self._empty += not answer.response
        self._by_length += answer.finish_reason == "length"

    def numbers(self, left_out: Mapping[str, int]) -> dict[str, Any]:
        """Give what `MEASURES["accuracy"]` names; `left_out` is that of `Accuracy`."""
        questions = sum(map(len, self._f1.values()))
        return {
            **self._means(KINDS),
            "empty_share": share(self._empty, questions),
            "by_length_share": share(self._by_length, questions),
            "engine_errors": self._errors,
            "left_out": dict(left_out),
            "by_kind": {kind: self._means((kind,)) for kind in KINDS if self._f1[kind]},
        }

    def _means(self, kinds: Sequence[str]) -> dict[str, Any]:
        scores = [score for kind in kinds for score in self._f1[kind]]
        return {
            "questions": len(scores),
            "f1": share(fsum(scores), len(scores)),
            "exact_match": share(100 * sum(self._exact[kind] for kind in kinds), len(scores)),
        }


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _request_seed(seed: int, text: str, instruction: str) -> int:
    content = f"{seed}:answer:{len(text)}:{text}{instruction}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 1
