"""`plan`: what augmenting a corpus will give and cost, from a small sample of it that is augmented for real."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Features
from tqdm.auto import tqdm

from ipt_datasets.corpus.estimate import CONFIDENCE, Estimate, estimate_totals
from ipt_datasets.corpus.input import check_fraction
from ipt_datasets.corpus.parquet_size import parquet_bytes
from ipt_datasets.corpus.sample import Sample, draw_sample
from ipt_datasets.corpus.share import ROWS_PER_SHARD
from ipt_datasets.corpus.stopwatch import Stopwatch, warm_up
from ipt_datasets.corpus.tokenizing import DocumentTokenizer
from ipt_datasets.errors import RecipeError
from ipt_datasets.models.embedded import EMBEDDED
from ipt_datasets.schema import TEXT_FEATURES
from ipt_datasets.synthesis.chains import Shot
from ipt_datasets.synthesis.dealing import SynthesizedRow
from ipt_datasets.synthesis.synthesizer import Synthesizer
from ipt_datasets.templating.templatizer import Templatizer

Count = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is expected of augmenting a corpus.

    Attributes:
        texts: raw texts of the whole input.
        sample: texts that were augmented to know it.
        totals: of the whole input, by what MEANINGS says.
        mix: tokens of the final mixture by where they come from: "raw texts", "pairs", "other data".
        devices: among which the hours are divided.
        loading_seconds: how long the model took to load, once a device and run.
        sample_seconds: how long the sample took.
        assumed: in sentences, what all of this rests on.
    """

    texts: int
    sample: int
    totals: dict[str, Estimate]
    mix: dict[str, Estimate]
    devices: int
    loading_seconds: float
    sample_seconds: float
    assumed: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give the plan as JSON holds it."""
        return asdict(self)


MEANINGS = {
    "texts_with_pairs": "texts with pairs",
    "pairs": "pairs",
    "prompt_tokens": "prompt tokens",
    "computed_tokens": "  of them not in the prefix cache",
    "output_tokens": "output tokens",
    "training_texts": "training texts",
    "training_tokens": "training tokens",
    "bytes": "bytes on the disk",
    "device_hours": "hours of one device",
    "hours": "hours on all devices",
}
"""What the totals of a plan are, as a table says it. `prompt_tokens` and `output_tokens` are the synthesizer's."""


def plan(
    source: str,
    synthesizer: Synthesizer | None = None,
    templatizer: Templatizer | None = None,
    *,
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    texts: int | None = None,
    fraction: float = 1.0,
    sample: int = 64,
    devices: int | None = None,
    mix_raw: float = 0.0,
    tokenizer: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Plan:
    """Augment a small sample of a corpus and tell what the whole of it will give and cost.

    Args:
        source: whatever `load_dataset` takes.
        synthesizer: writes the pairs; None: the embedded one.
        templatizer: renders them; None: the shipped templates with `seed`.
        split: of the source.
        config_name: of the source.
        revision: of the source, where it is a Hub id.
        texts: how many raw texts there are; None: what the source says of itself, else they are counted by reading it.
        fraction: the share of the texts that will be augmented; the rest passes as plain text.
        sample: texts to try, drawn by `seed` in whole chains from all over the input.
        devices: that will share the work, each as fast as a worker of the synthesizer here; None: as many as these.
        mix_raw: tokens of other data that the corpus will be mixed with, for each of its own: the weight R in
            `ipt mix corpus=FOLDER:1 other=SOURCE:R`.
        tokenizer: whose tokens the training tokens are; None: the synthesizer's own.
        seed: draws the sample, and the intervals.
        progress: show a progress bar.

    Raises:
        InputError: the source cannot be read, or has no such text column.
        RecipeError: a setting is out of range.
        EngineError: the engine cannot be built, or died.
    """
    if devices is not None and devices < 1:
        raise RecipeError(f"devices={devices!r}: expected a whole number of at least 1")
    if not mix_raw >= 0:
        raise RecipeError(f"mix_raw={mix_raw!r}: expected a weight of 0 or more")
    check_fraction(fraction)
    synthesizer = synthesizer or Synthesizer(seed=seed)
    workers = synthesizer.workers
    devices = devices or workers
    column = synthesizer.recipe.text_column
    templatizer = templatizer or Templatizer(seed=seed, text_column=column)
    loaded: list[_Loaded] = []
    drawn = draw_sample(
        source,
        column,
        rows=sample,
        stretch=synthesizer.recipe.shots,
        split=split,
        config_name=config_name,
        revision=revision,
        total=texts,
        seed=seed,
        ready=lambda: loaded.append(_load(synthesizer, tokenizer)),
    )
    tried = _try(drawn, synthesizer, templatizer, fraction, loaded[0], progress)
    sums = {name: _by_stretch(values, drawn.stretches) for name, values in tried.per_row.items()}
    found = estimate_totals(sums, [len(stretch) for stretch in drawn.stretches], drawn.total, seed)
    totals = {name: found[name] for name in MEANINGS if name in found}
    totals["bytes"] = found["bytes"].plus(tried.shard_bytes * -(-drawn.total // ROWS_PER_SHARD))
    totals["device_hours"] = found["work"].times(workers / tried.speed / 3600 if tried.speed else 0.0)
    totals["hours"] = totals["device_hours"].times(1 / devices)
    mix = {"raw texts": found["raw_tokens"], "pairs": found["added_tokens"]}
    if mix_raw:
        mix["other data"] = found["training_tokens"].times(mix_raw)
    return Plan(
        texts=drawn.total,
        sample=len(drawn.rows),
        totals=totals,
        mix=mix,
        devices=devices,
        loading_seconds=tried.loading_seconds,
        sample_seconds=tried.seconds,
        assumed=(
            *drawn.said,
            *tried.said,
            f"intervals: {CONFIDENCE:.0%}, from how much the sample's chains differ; that the machine may be faster or "
            "slower at other times is not in them",
            *([f"the speed is that of {workers} workers together"] if workers > 1 else []),
            *([f"{devices} devices divide the work evenly, each as fast as one here"] if devices > 1 else []),
            *([f"other data: {mix_raw:g} tokens for each of the corpus, as `ipt mix` takes them"] if mix_raw else []),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What counts training tokens, in words whose they are, and how long the model took to load."""

    count: Count
    counted_in: str
    seconds: float


def _load(synthesizer: Synthesizer, tokenizer: str | None) -> _Loaded:
    begun = time.monotonic()
    synthesizer.open()
    seconds = time.monotonic() - begun
    return _Loaded(*_counter(synthesizer, tokenizer), seconds)


@dataclass(frozen=True, slots=True)
class _Tried:
    """What a sample gave: values by name and row of the sample, and how fast the engine was, in tokens a second."""

    per_row: dict[str, list[float]]
    shard_bytes: float
    speed: float
    seconds: float
    loading_seconds: float
    said: tuple[str, ...]


def _try(
    drawn: Sample,
    synthesizer: Synthesizer,
    templatizer: Templatizer,
    fraction: float,
    loaded: _Loaded,
    progress: bool,
) -> _Tried:
    """Augment a sample, and measure."""
    rows = drawn.rows
    texts = [row[synthesizer.recipe.text_column] for row in rows]
    engine, prompter = synthesizer.open()
    warm_up(engine, prompter)
    watch = Stopwatch(engine)
    shots: list[Shot] = []
    synthesizer.engine = watch
    try:
        written = synthesizer.synthesize(texts, on_shot=shots.append)
        done = list(tqdm(written, total=len(texts), unit=" texts", desc="sample", disable=not progress))
    finally:
        synthesizer.engine = engine
    per_row: dict[str, list[float]] = {name: [0.0] * len(rows) for name in _ROW_VALUES}
    for shot, span in zip(shots, watch.spans, strict=True):
        per_row["pairs"][shot.row] += len(shot.pairs) * fraction
        per_row["prompt_tokens"][shot.row] += span.prompt_tokens * fraction
        per_row["computed_tokens"][shot.row] += (span.prompt_tokens - span.cached_tokens) * fraction
        per_row["work"][shot.row] += span.computed_tokens * fraction
        per_row["output_tokens"][shot.row] += span.completion_tokens * fraction
    per_row["texts_with_pairs"] = [fraction * (row.status == "ok") for row in done]
    features = synthesizer.features(drawn.features)
    shard_bytes = _add_corpus(per_row, rows, texts, done, features, templatizer, loaded.count, fraction)
    speed, share = watch.speed()
    said = _said_of_speed(speed, share, watch, len(rows)), loaded.counted_in
    return _Tried(per_row, shard_bytes, speed, watch.seconds, loaded.seconds, said)


def _add_corpus(
    per_row: dict[str, list[float]],
    rows: Sequence[dict[str, Any]],
    texts: Sequence[str | None],
    done: Sequence[SynthesizedRow],
    features: Features,
    templatizer: Templatizer,
    count: Count,
    fraction: float,
) -> float:
    """Render the sample as `augment` does, and add what each row brings to the corpus.

    With a fraction, a row counts as augmented with that part and as plain text with the rest.

    Returns:
        The bytes that a shard takes once, whatever it holds.
    """
    shard_bytes = 0.0
    passed = [
        SynthesizedRow(status=row.status if row.status in ("empty", "not_unicode") else "not_selected") for row in done
    ]
    raw = [float(number) for number in count([text or "" for text in texts])]
    for part, written in ((fraction, done), (1 - fraction, passed)):
        if not part:
            continue
        columns = {
            name: [{**row, **one.columns()}[name] for row, one in zip(rows, written, strict=True)] for name in features
        }
        rendered = templatizer({**columns, "id": [str(at) for at in range(len(rows))]})
        shown: list[float] = [0.0] * len(rows)
        for names, tokens in zip(rendered["rows"], count(rendered["text"]), strict=True):
            for name in names:
                per_row["training_texts"][int(name)] += part / len(names)
                per_row["training_tokens"][int(name)] += part * tokens / len(names)
                shown[int(name)] = 1.0
        for at, is_shown in enumerate(shown):
            per_row["raw_tokens"][at] += part * is_shown * raw[at]
        weights = [len(json.dumps(one.columns())) + len(text or "") for one, text in zip(written, texts, strict=True)]
        sizes = parquet_bytes(columns, features), parquet_bytes(rendered, TEXT_FEATURES)
        size, once = (part * sum(kind) for kind in zip(*sizes, strict=True))
        shard_bytes += once
        for at, weight in enumerate(weights):
            per_row["bytes"][at] += size * weight / sum(weights)
    per_row["added_tokens"] = [
        whole - own for whole, own in zip(per_row["training_tokens"], per_row["raw_tokens"], strict=True)
    ]
    return shard_bytes


_ROW_VALUES = (
    "texts_with_pairs",
    "pairs",
    "prompt_tokens",
    "computed_tokens",
    "output_tokens",
    "work",
    "training_texts",
    "training_tokens",
    "raw_tokens",
    "added_tokens",
    "bytes",
)


def _by_stretch(values: Sequence[float], stretches: Sequence[Sequence[Any]]) -> list[float]:
    left = iter(values)
    return [sum(next(left) for _ in stretch) for stretch in stretches]


def _counter(synthesizer: Synthesizer, tokenizer: str | None) -> tuple[Count, str]:
    """Give what counts the tokens of training texts, and its name in words."""
    if tokenizer is None and synthesizer.recipe.engine == "scripted":
        encode = synthesizer.open()[0].tokenizer.encode
        return lambda texts: [len(encode(text)) + 2 for text in texts], "training tokens: pieces of the scripted engine"
    name = tokenizer or synthesizer.recipe.model
    revision = None if tokenizer else synthesizer.recipe.revision or None
    counter = DocumentTokenizer.load(name, None if name in EMBEDDED else revision)
    return counter.count, f"training tokens: of {name}, BOS and EOS of each text counted"


def _said_of_speed(speed: float, share: float, watch: Stopwatch, texts: int) -> str:
    said = f"hours: at {speed:,.0f} computed tokens a second, as seen on this machine, loading apart"
    if share < 1:
        return f"{said}; measured while the engine was full, {share:.0%} of the sample's tokens"
    return (
        f"{said}; the sample never kept the engine full (it takes {watch.max_requests} chains at once, {texts} texts "
        "were too few), so that a long run will be faster: try a larger --sample"
    )
