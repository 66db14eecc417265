"""`evaluate`: how well a synthesizer does on texts, with gold pairs and without."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from typing import Any

from ipt_datasets.errors import InputError, IPTError, RecipeError
from ipt_datasets.quality.accuracy import Accuracy, AccuracyCount, Answer
from ipt_datasets.quality.counting import share
from ipt_datasets.quality.generation import GenerationCount, pairs_of, synthesized
from ipt_datasets.quality.rows import Rows, complete
from ipt_datasets.schema import Pair
from ipt_datasets.synthesis.synthesizer import Synthesizer


@dataclass(frozen=True)
class ScoreSheet:
    """What `evaluate` measured; `quality.report.MEASURES` says what each number means.

    Attributes:
        name: of the set.
        model: of the synthesizer, with its `revision`.
        revision: commit of a Hub id, or the hash of the weights.
        recipe: of the synthesizer, without `shots`: that differs from pass to pass.
        package: version of ipt-datasets.
        texts: rows that were read.
        texts_with_gold: those with gold pairs.
        incomplete_gold: gold pairs without an instruction or a response, which count nowhere.
        accuracy: numbers of the answers to gold instructions; None if none were asked.
        passes: one a number of shots, then one with examples:
            {"shots": ..., "examples": ..., "quality": {...}, "yield": {...}, ...}.
        samples: of the first texts: gold pairs, answers, and the generated pairs of each pass.
    """

    name: str
    model: str
    revision: str
    recipe: dict[str, Any]
    package: str
    texts: int
    texts_with_gold: int
    incomplete_gold: int
    accuracy: dict[str, Any] | None
    passes: list[dict[str, Any]]
    samples: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Give the sheet as JSON holds it; it depends on nothing but the recipe, the set and the model."""
        return asdict(self)


def evaluate(
    synthesizer: Synthesizer,
    rows: Iterable[Any],
    *,
    name: str = "",
    accuracy: bool = True,
    quality: bool = True,
    shots: Sequence[int] = (1, 2),
    examples: int = 0,
    limit: int | None = None,
    samples: int = 3,
) -> ScoreSheet:
    """Measure a synthesizer on texts; its engine is loaded once, and stays loaded.

    Args:
        synthesizer: what is measured. Its own `shots` are not used.
        rows: what `read_rows` gives, a `Dataset` of task rows, or (text, gold pairs) tuples. Iterated over once to
            count and once a pass, so an iterator is first taken into memory.
        name: of the set, for the sheet.
        accuracy: ask the gold instructions.
        quality: let it write pairs of its own, count them, and score them where there are gold pairs.
        shots: texts a chain, one pass each: 1 is zero-shot.
        examples: so many rows at the beginning of the set are not scored: with their gold pairs they stand before every
            text in one more pass, the paper's few-shot setting. They take the place of the synthesizer's primer.
        limit: only the first N rows behind the examples; None: all.
        samples: how many texts the sheet shows.

    Raises:
        InputError: there are no rows, no gold pairs where only accuracy was asked for, or a row cannot be read.
        RecipeError: nothing is to be measured, or a number is out of range.
        EngineError: the model cannot be loaded, or the engine died.
    """
    _check(accuracy, quality, shots, examples, limit, samples)
    texts = _rows(rows, synthesizer, limit)
    gold_examples = _examples(texts, examples, name)
    texts = replace(texts, skip=texts.skip + examples)
    shown: list[dict[str, Any]] = []
    n_texts = with_gold = incomplete = 0
    for text, given in texts.as_given():
        gold = complete(given)
        incomplete += len(given) - len(gold)
        if n_texts < samples:
            shown.append({"text": text or "", "gold": list(map(_plain, gold)), "answers": [], "generated": []})
        n_texts, with_gold = n_texts + 1, with_gold + bool(gold)
    if not n_texts:
        raise InputError(f"{name or 'the set'} holds no rows; expected texts, with gold pairs or without")
    if accuracy and not quality and not with_gold:
        raise InputError(
            f"{name or 'the set'} holds no gold pairs in its {n_texts} rows, and accuracy needs them: "
            "give a set with a column 'pairs', or measure pair quality too"
        )
    synthesizer.open()
    answered = _accuracy(synthesizer, texts, shown) if accuracy and with_gold else None
    passes: list[dict[str, Any]] = []
    counts: dict[int, GenerationCount] = {}
    for number in sorted(set(shots)) if quality else ():
        counts[number] = _pass(with_shots(synthesizer, number), texts, 0, shown)
        numbers = counts[number].numbers()
        if number > 1 and 1 in counts:
            numbers["quality"]["zero_shot_same_texts"] = _same_texts(counts[1], counts[number])
        passes.append({"shots": number, "examples": 0, **numbers})
    if quality and examples:
        behind_gold = _pass(with_shots(synthesizer, 1, gold_examples), texts, examples, shown)
        passes.append({"shots": 1, "examples": examples, **behind_gold.numbers()})
    recipe = synthesizer.recipe.to_dict()
    del recipe["shots"]
    return ScoreSheet(
        name=name,
        model=synthesizer.recipe.model,
        revision=synthesizer.recipe.revision,
        recipe=recipe,
        package=version("ipt-datasets"),
        texts=n_texts,
        texts_with_gold=with_gold,
        incomplete_gold=incomplete,
        accuracy=answered,
        passes=passes,
        samples=shown,
    )


def with_shots(
    synthesizer: Synthesizer, shots: int, primer: Sequence[tuple[str, Sequence[Pair]]] | None = None
) -> Synthesizer:
    """Give a synthesizer with the same recipe but for `shots`, and a primer that is given, around the same engine.

    Raises:
        RecipeError: the primer leaves no room for texts.
    """
    engine, _ = synthesizer.open()
    recipe = synthesizer.recipe
    settings = {item.name: getattr(recipe, item.name) for item in fields(recipe) if item.name != "version"}
    given = {} if primer is None else {"primer": primer}
    return Synthesizer(**{**settings, "engine": engine, "shots": shots, **given})


def _examples(rows: Rows, number: int, name: str) -> list[tuple[str, Sequence[Pair]]]:
    """Take the examples from the beginning of a set.

    Raises:
        InputError: one of them has no text or no gold pairs, or there are fewer.
    """
    found: list[tuple[str, Sequence[Pair]]] = [
        (text or "", gold) for text, gold in islice(replace(rows, limit=None), number)
    ]
    usable = sum(bool(text.strip() and gold) for text, gold in found)
    if usable < number:
        raise InputError(
            f"{name or 'the set'} has {usable} rows with a text and gold pairs among its first {number}; "
            f"examples={number} expects all of these to have both: lower it, or put such rows first"
        )
    return found


def _check(accuracy: bool, quality: bool, shots: Sequence[int], examples: int, limit: int | None, samples: int) -> None:
    if not accuracy and not quality:
        raise RecipeError("accuracy=False and quality=False: nothing is left to measure; ask for one of them")
    if quality and (not shots or min(shots) < 1):
        raise RecipeError(f"shots={list(shots)!r}: expected whole numbers of at least 1, one a pass")
    if limit is not None and limit < 1:
        raise RecipeError(f"limit={limit!r}: expected a whole number of at least 1, or None for all rows")
    for name, value in (("samples", samples), ("examples", examples)):
        if value < 0:
            raise RecipeError(f"{name}={value!r}: expected a whole number of at least 0")
    if quality and find_spec("scipy") is None:
        raise IPTError('pair quality needs scipy: run `pip install "ipt-datasets[evaluate]"`')


def _rows(rows: Iterable[Any], synthesizer: Synthesizer, limit: int | None) -> Rows:
    if isinstance(rows, Rows):
        return replace(rows, limit=limit if rows.limit is None else min(limit or rows.limit, rows.limit))
    held = list(rows) if iter(rows) is rows else rows
    return Rows(held, synthesizer.recipe.text_column, limit)


def _accuracy(synthesizer: Synthesizer, rows: Rows, shown: list[dict[str, Any]]) -> dict[str, Any]:
    engine, prompter = synthesizer.open()
    asking, count = Accuracy(engine, prompter, synthesizer.recipe), AccuracyCount()
    first: list[Answer] = []
    for answer in asking.answers(rows):
        count.add(answer)
        if answer.row < len(shown):
            first.append(answer)
    for answer in sorted(first, key=lambda answer: (answer.row, answer.question)):
        shown[answer.row]["answers"].append(
            {
                "instruction": answer.pair.instruction,
                "gold": answer.pair.response,
                "response": answer.response,
                "f1": round(answer.f1, 2),
                "finish_reason": answer.finish_reason,
            }
        )
    return count.numbers(asking.left_out)


def _pass(synthesizer: Synthesizer, rows: Rows, examples: int, shown: list[dict[str, Any]]) -> GenerationCount:
    count = GenerationCount()
    for number, (text, gold, row) in enumerate(synthesized(synthesizer, rows)):
        quality = count.add(text, gold, row)
        if number < len(shown):
            shown[number]["generated"].append(
                {
                    "shots": synthesizer.recipe.shots,
                    "examples": examples,
                    "status": row.status,
                    "quality": None if quality is None else round(quality, 2),
                    "pairs": list(map(_plain, pairs_of(row))),
                }
            )
    return count


def _same_texts(zero_shot: GenerationCount, few_shot: GenerationCount) -> float | None:
    scores = [zero_shot.quality[number] for number in few_shot.behind_others if number in zero_shot.quality]
    return share(sum(scores), len(scores))


def _plain(pair: Pair) -> dict[str, Any]:
    return {name: value for name, value in asdict(pair).items() if value}
