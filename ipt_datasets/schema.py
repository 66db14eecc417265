"""The shapes that travel between the stages: a pair, a shot, what was rejected; their columns and features.

The shot record is the truth of a synthesis: it keeps the raw completion, so that a better parser costs no GPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from datasets import Features, List, Value

PAIRS = List(
    {
        "instruction": Value("string"),
        "response": Value("string"),
        "options": List(Value("string")),
        "rationale": Value("string"),
        "shot": Value("int32"),
    }
)
SHOTS = List(
    {
        "chain": Value("string"),
        "position": Value("int32"),
        "start": Value("int32"),
        "end": Value("int32"),
        "follows": Value("bool"),
        "completion": Value("string"),
        "finish_reason": Value("string"),
        "prompt_tokens": Value("int32"),
        "completion_tokens": Value("int32"),
    }
)
REJECTED = List({"reason": Value("string"), "text": Value("string"), "shot": Value("int32")})

SYNTHESIS_FEATURES = Features({"pairs": PAIRS, "shots": SHOTS, "rejected": REJECTED, "status": Value("string")})
"""The columns that synthesis adds to the source columns."""

TEXT_FEATURES = Features(
    {
        "text": Value("string"),
        "n_pairs": Value("int32"),
        "template": Value("string"),
        "chain": Value("string"),
        "rows": List(Value("string")),
    }
)
"""The columns of the instruction-augmented texts, one row a training document."""

TASK_FEATURES = Features(
    {
        "text": Value("string"),
        "pairs": PAIRS,
        "task_set": Value("string"),
        "prompt": Value("string"),
        "completion": Value("string"),
    }
)
"""The columns of the rows that a synthesizer is tuned and scored on, one row a text with all its gold pairs.

`task_set` names the set; the `shot` of every pair is 0; `prompt` and `completion` are the text and the pairs in the
paper's markup, without BOS and EOS, for other trainers (trl's prompt-completion format).
"""

MIXTURE_FEATURES = Features(
    {
        "text": Value("string"),
        "source": Value("string"),
        "row": Value("string"),
        "n_tokens": Value("int32"),
        "repeat": Value("int32"),
    }
)
"""The columns of a mixture, one row a document.

`row` is the `id` of the row in its source, or its number; `n_tokens` counts BOS and EOS; `repeat` says how often the
source was begun anew before this document.
"""

PACKED_FEATURES = Features(
    {
        "input_ids": List(Value("int32")),
        "position_ids": List(Value("int32")),
        "labels": List(Value("int32")),
        "seq_lengths": List(Value("int32")),
        "continues": Value("bool"),
    }
)
"""The columns of packed rows, each of the same number of tokens.

A row holds pieces of documents one behind the other, `seq_lengths` tokens each; `position_ids` begin at 0 with every
piece, and `labels` are the ids, -100 for the first token of a piece, which nothing in its document precedes.
`continues`: the first piece goes on with the document that the row before ended in.
"""

STATUSES: Mapping[str, str] = {
    "ok": "at least one pair",
    "no_pairs": "the synthesizer was asked and nothing it wrote could be kept; see `rejected`",
    "empty": "null, empty or only white space: the synthesizer was not asked",
    "not_unicode": "holds a lone surrogate, which no tokenizer and no Parquet file can hold: not asked",
    "too_long": "longer than one prompt holds and long_texts='skip': not asked",
    "not_selected": "left out by --fraction: passes as plain text",
    "engine_error": "no pairs, because the engine failed on the text or a window of it; `rejected` keeps its words",
}
"""Every raw text ends in exactly one of these."""

REJECT_REASONS: Mapping[str, str] = {
    "unfinished": "the completion ended inside this piece",
    "no_question": "the piece does not begin with a question",
    "several_questions": "a second question mark-up inside one pair",
    "empty_question": "nothing stands between the question's mark-up and the answer's",
    "no_answer": "no answer mark-up",
    "several_answers": "more than one answer mark-up in one pair",
    "empty_answer": "nothing stands after the answer's mark-up",
    "duplicate": "the same instruction was already kept for this shot (case aside)",
    "behind_the_end": "written behind the end of the shot, where the model went on with a text of its own",
    "over_limit": "more pairs than max_pairs allows",
    "engine_error": "not a completion: what the engine said when it failed",
    "unreadable": "in a released corpus: not a question and an answer, or none that Unicode can hold",
}
"""Why a piece of a completion did not become a pair."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One instruction and its response.

    Attributes:
        instruction: without its options and without the step-by-step line.
        response: the final answer, without what leads up to it.
        options: the texts to choose from, empty for free-form pairs.
        rationale: the reasoning before the response, empty where there is none.
    """

    instruction: str
    response: str
    options: tuple[str, ...] = ()
    rationale: str = ""

    @classmethod
    def read(cls, value: Any) -> "Pair":
        """Read a `Pair`, an element of a `pairs` column or a mapping like it, or an (instruction, response) tuple.

        Raises:
            KeyError, TypeError: the value is none of them.
        """
        if isinstance(value, Pair):
            return value
        if isinstance(value, Mapping):
            options, rationale = value.get("options"), value.get("rationale")
            return cls(value["instruction"], value["response"], tuple(options or ()), rationale or "")
        return cls(*value)

    def to_row(self, shot: int) -> dict[str, Any]:
        """Give an element of a `pairs` column; `shot` is the index into the row's `shots`."""
        return {
            "instruction": self.instruction,
            "response": self.response,
            "options": list(self.options),
            "rationale": self.rationale,
            "shot": shot,
        }


class Rejected(NamedTuple):
    """A piece of a completion that is not a pair, with a reason from `REJECT_REASONS`."""

    reason: str
    text: str


class ParsedCompletion(NamedTuple):
    """What a completion holds, in the order it was written."""

    pairs: tuple[Pair, ...]
    rejected: tuple[Rejected, ...]


class TypedColumn(list[Any]):
    """A list that tells Arrow its exact type, so that rows without a reject or an option never freeze a null type.

    `Dataset.map` infers each new column's type from the first batch; it asks a list for `__arrow_array__` first.
    """

    def __init__(self, values: Sequence[Any], feature: Any) -> None:
        super().__init__(values)
        self._feature = feature

    def __arrow_array__(self, type: Any = None) -> Any:  # noqa: A002 (the protocol's name)
        import pyarrow as pa

        values: list[Any] = list(self)  # a plain list: Arrow asks any other for this method again
        return pa.array(values, type=type or Features({"column": self._feature}).arrow_schema.field(0).type)

    def __reduce__(self) -> tuple[Any, ...]:
        return TypedColumn, (list(self), self._feature)
