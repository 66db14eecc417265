"""What each number of a score sheet means and what it cannot see, and the sheet as a table."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ipt_datasets.quality.evaluate import ScoreSheet

MEASURES: Mapping[str, Mapping[str, str]] = {
    "accuracy": {
        "f1": (
            "Response accuracy. The model is given the text and a gold instruction, with its options and step-by-step "
            "line, and its response (the reasoning before it removed) is compared with the gold one: token F1 as in "
            "SQuAD (lower case, no punctuation, no articles; one token a character in scripts without spaces), mean "
            "over questions, 0 to 100. Each question is asked alone, without an earlier shot. Blind to another wording "
            "of a right answer, and kind to a wrong one that shares words with the gold: 'not in 1912' has 50 "
            "against '1912'."
        ),
        "exact_match": (
            "Percentage of responses with the same tokens as the gold one, in the same order. For multiple choice the "
            "share of right choices, as long as the model writes the option out. Punishes every additional word."
        ),
        "questions": "Gold instructions that were answered; the means are over them.",
        "empty_share": (
            "Share of responses with nothing in them; they count 0. Where it is high, the model does not know the "
            "markup, and f1 says nothing about its reading."
        ),
        "by_length_share": "Share of responses that only max_new_tokens ended; scored as far as they go.",
        "engine_errors": "Questions that the engine failed on. They are in no mean.",
        "left_out": "Gold instructions that were not asked: the text is empty, or the prompt too long for the model.",
        "by_kind": (
            "The same by kind of the gold pair: free_form, multiple_choice (has options), chain_of_thought (has a "
            "rationale), both. A choice among few options is partly right by chance, so compare like with like."
        ),
    },
    "quality": {
        "all_shots": (
            "Pair quality. The pairs generated for a text against its gold pairs, matched one to one so that the total "
            "token F1 is highest (instruction, options and response as one bag); the sum over the number of pairs on "
            "the longer side, mean over texts, 0 to 100. With shots 1 this is zero-shot, and behind examples, rows of "
            "the set with their gold pairs, the paper's few-shot. Measures likeness to the gold "
            "pairs, not truth: another good question scores low, a wrong answer to the gold question high, and writing "
            "another number of pairs than the gold has costs as much as bad ones. Compare models on the same set only."
        ),
        "texts": "Texts with gold pairs that all_shots is the mean of.",
        "few_shot": (
            "The same over the texts all of whose prompts held at least one earlier shot, dealt as the synthesizer "
            "deals them. Other texts than those of zero-shot: compare it with zero_shot_same_texts."
        ),
        "few_shot_texts": "Texts that few_shot is the mean of.",
        "zero_shot_same_texts": "What the texts of few_shot had with shots 1; given where both were run.",
    },
    "yield": {
        "texts": "Texts that were asked about and that the engine answered; empty and too long ones are in `statuses`.",
        "texts_with_pairs_share": "Share of texts with at least one pair.",
        "pairs": "Pairs in all.",
        "pairs_a_text": "Mean number of pairs a text.",
        "fewest_pairs": "The fewest of any text.",
        "most_pairs": "The most of any text; a long text has a completion a window.",
        "completions": "Completions: one a text, or one a window of a long text.",
        "tokens_a_pair": (
            "Generated tokens a pair, what was rejected included: the price of a pair. Depends on the tokenizer."
        ),
        "parsed_share": (
            "Share of completions with at least one pair in which every piece is whole: nothing was rejected but "
            "repetitions and what max_pairs or max_new_tokens cut off."
        ),
        "clean_share": "Share of completions with at least one pair and nothing rejected at all.",
        "by_length_share": (
            "Share of completions that only max_new_tokens ended: loops, mostly, or a limit that is too low."
        ),
        "rejected": "Pieces that did not become a pair, by reason (schema.REJECT_REASONS).",
    },
    "grounding": {
        "responses": "Free-form responses, bare yes, no, true and false left out: those that grounding looks at.",
        "grounded_share": (
            "Share of them of which at least 0.8 of the tokens occur in the text, wherever. A low number means made-up "
            "answers or good paraphrases, which this cannot tell apart; a high one does not mean that they are right."
        ),
        "mean_token_share": "Mean share of a response's tokens that occur in the text.",
        "span_share": "Share that occurs in the text word for word, as one stretch: extraction.",
    },
    "kinds": {
        "free_form_share": "Share of pairs without options and rationale.",
        "multiple_choice_share": "Share of pairs with options and no rationale.",
        "chain_of_thought_share": "Share of pairs with a rationale and no options.",
        "both_share": "Share of pairs with options and a rationale.",
        "yes_no_share": (
            "Share of pairs of any kind with a bare yes, no, true or false for a response; English words only."
        ),
    },
    "variety": {
        "distinct_instructions_share": (
            "Different instructions (normalised) over pairs, in all texts. Sinks as more texts are read, so compare "
            "equal numbers of texts."
        ),
        "distinct_openings": "Different first three words of instructions.",
        "top_opening": "The most frequent of them.",
        "top_opening_share": "Share of pairs that begin so. In a script without spaces these are three characters.",
        "texts_with_alike_instructions_share": (
            "Share of texts in which two instructions are the same, or have a token F1 of at least 0.9. Two questions "
            "that differ in one number are alike by it."
        ),
        "texts_with_alike_pairs_share": "The same of whole pairs.",
        "repeated_responses_share": (
            "Share of pairs whose response was already given in the same text, yes and no aside. Right answers may "
            "repeat: look at how it differs between models."
        ),
    },
}
"""What each number means, by group and name as in `ScoreSheet.accuracy` and in each of `ScoreSheet.passes`."""

_LABEL, _CELL = 42, 14


def explain() -> str:
    """Give all of `MEASURES` to read."""
    lines = ["Shares are from 0 to 1; F1, exact match and pair quality from 0 to 100; - is a mean of nothing."]
    for group, measures in MEASURES.items():
        lines += ["", group]
        for name, meaning in measures.items():
            lines.append(f"  {name}")
            lines += textwrap.wrap(meaning, 110, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def render(sheet: ScoreSheet) -> str:
    """Give a score sheet as a table: accuracy first, then a column a pass."""
    revision = f"@{sheet.revision}" if sheet.revision else ""
    lines = [
        f"{sheet.name or 'texts'}: {sheet.texts:,} texts, {sheet.texts_with_gold:,} with gold pairs"
        + (f"; left out {sheet.incomplete_gold:,} gold pairs without both halves" if sheet.incomplete_gold else ""),
        f"{sheet.model}{revision}, {sheet.recipe['engine']}, markup {sheet.recipe['markup']}",
    ]
    if sheet.accuracy is not None:
        lines += ["", *_accuracy_lines(sheet.accuracy)]
    if sheet.passes:
        lines += ["", *_pass_lines(sheet.passes)]
    return "\n".join(lines)


def render_samples(samples: Sequence[Mapping[str, Any]], width: int = 110) -> str:
    """Give the samples of a sheet to read, texts cut to one line."""
    lines: list[str] = []
    for number, sample in enumerate(samples, 1):
        lines.append(f"--- sample {number}: {_one_line(sample['text'], width)}")
        for answer in sample["answers"]:
            lines.append(f"  asked      {_one_line(answer['instruction'], width)}")
            lines.append(f"    gold     {_one_line(answer['gold'], width)}")
            lines.append(f"    answer   {_one_line(answer['response'], width)}  (F1 {answer['f1']:.0f})")
        for generated in sample["generated"]:
            quality = "" if generated["quality"] is None else f", quality {generated['quality']:.1f}"
            lines.append(f"  generated, {_name(generated)}: {generated['status']}{quality}")
            for pair in generated["pairs"]:
                lines.append(f"    {_one_line(pair['instruction'], width)} -> {_one_line(pair['response'], width)}")
    return "\n".join(lines)


def _accuracy_lines(numbers: Mapping[str, Any]) -> list[str]:
    lines = [_line("response accuracy", ["questions", "F1", "exact match"])]
    kinds = {"all": numbers, **numbers["by_kind"]}
    lines += [
        _line(f"  {kind}", [of[name] for name in ("questions", "f1", "exact_match")]) for kind, of in kinds.items()
    ]
    for name in ("empty_share", "by_length_share", "engine_errors"):
        lines.append(_line(f"  {name}", [numbers[name]]))
    left_out = {reason: count for reason, count in numbers["left_out"].items() if count}
    return [*lines, *(_line(f"  left out: {reason}", [count]) for reason, count in left_out.items())]


def _pass_lines(passes: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [_line("generated pairs", [_name(numbers) for numbers in passes])]
    for group in [name for name in MEASURES if name != "accuracy"]:
        lines.append(group)
        names = [name for name in MEASURES[group] if any(name in numbers[group] for numbers in passes)]
        for name in [name for name in names if name != "rejected"]:
            lines.append(_line(f"  {name}", [numbers[group].get(name) for numbers in passes]))
    lines += _counted("rejected pieces", [numbers["yield"]["rejected"] for numbers in passes])
    lines += _counted("texts by status", [numbers["statuses"] for numbers in passes])
    return [*lines, _line("engine_errors", [numbers["engine_errors"] for numbers in passes])]


def _name(numbers: Mapping[str, Any]) -> str:
    """Name a pass."""
    return f"{numbers['examples']} examples" if numbers["examples"] else f"shots {numbers['shots']}"


def _counted(heading: str, columns: Sequence[Mapping[str, int]]) -> list[str]:
    names = sorted({name for column in columns for name in column})
    if not names:
        return []
    return [heading, *(_line(f"  {name}", [column.get(name, 0) for column in columns]) for name in names)]


def _line(label: str, cells: Sequence[Any]) -> str:
    return f"{label:<{_LABEL}}" + "".join(f"{_cell(cell):>{_CELL}}" for cell in cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"  {_one_line(str(value), _CELL + 8)}"


def _one_line(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."
