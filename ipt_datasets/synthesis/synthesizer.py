"""`Synthesizer`: the object that `Dataset.map` calls to write pairs about raw texts."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import takewhile
from typing import Any

from datasets import Features
from datasets.formatting.formatting import LazyBatch

from ipt_datasets.errors import EngineError, InputError, RecipeError
from ipt_datasets.models.identity import embedded_name, locate, resolve_revision
from ipt_datasets.recipe import Recipe, read_primer
from ipt_datasets.schema import SYNTHESIS_FEATURES, Pair, TypedColumn
from ipt_datasets.synthesis.chains import Shot
from ipt_datasets.synthesis.dealing import Dealer, Journal, SynthesizedRow
from ipt_datasets.synthesis.engines import Engine
from ipt_datasets.synthesis.engines.choose import check_workers, choose_engine, open_engine
from ipt_datasets.synthesis.markup import MARKUPS
from ipt_datasets.synthesis.primer import PRIMER
from ipt_datasets.synthesis.prompts import Prompter
from ipt_datasets.synthesis.schedule import Job, Schedule

ADDED_COLUMNS = tuple(SYNTHESIS_FEATURES)

SMOL_PENALTIES: Mapping[str, Mapping[str, float]] = {
    "smol": {"frequency_penalty": 0.2, "presence_penalty": 1.0},
    "smol-base": {"frequency_penalty": 0.1},
}
"""Against the loops of so small a model; by `ipt evaluate` on unseen paragraphs the best of several for each."""

SILENT_SHOTS = 20
"""After so many shots without any pair a warning says that the model may want another markup."""


class Synthesizer:
    """Writes instruction-response pairs about raw texts; what `Dataset.map(..., batched=True)` calls.

    Consecutive texts form chains of `shots` texts, the last may be shorter. Building a `Synthesizer` is cheap: the
    model is loaded by the first batch. It pickles as its recipe, so that the cache of `Dataset.map` is reused by an
    equal object, whether or not its engine is running.

    Args:
        model: "smol" (the embedded synthesizer), "smol-base" (the model it was tuned from), a Hub id or a folder.
        engine: "auto" (vLLM where it is installed with a GPU, else transformers), "vllm", "transformers", "server",
            "scripted", or an engine object, with which the Synthesizer can neither be pickled nor cached.
        shots: raw texts a chain, the paper's M (2 for general corpora, 3 for a domain's).
        max_new_tokens: the most tokens of one completion.
        max_model_len: prompt and completion together; None: the model's own, 4096 at most.
        temperature: 0 is greedy.
        text_column: the column that holds the raw texts.
        long_texts: "split", "truncate" or "skip", see `Recipe`.
        seed: decides sampling.
        revision: commit of a Hub id.
        markup: "paper", "plain" or "chat"; None: "chat" for "smol-base", the paper's for any other model.
        primer: finished shots in front of every chain, [(text, [(instruction, response), ...]), ...]; None: the
            shipped one for "plain" and "chat", none for the paper's markup.
        top_p: share of the probability that sampling draws from.
        repetition_penalty: 1 is off; more also punishes the words of the text.
        frequency_penalty: 0 is off; more punishes what the completion repeats, the more the oftener; None: 0, for
            "smol", adapters on the same base and "smol-base" that of SMOL_PENALTIES.
        presence_penalty: the same, equally much however often; None: likewise.
        max_windows: the most windows of one long text.
        max_pairs: the most pairs kept of one text.
        engine_options: passed to the engine as they are (vLLM's `EngineArgs`, transformers' `from_pretrained`);
            they say how the model runs, are not part of the recipe and stay in this process.
        servers: base URLs for engine="server"; like engine_options no part of the recipe.
        workers: processes on this machine with an engine each, on a GPU of its own where there are GPUs; the output is
            the same, and like engine_options they stay in this process.

    Raises:
        RecipeError: a setting is unknown or out of range.
    """

    def __init__(
        self,
        model: str = "smol",
        engine: str | Engine = "auto",
        shots: int = 2,
        max_new_tokens: int = 400,
        max_model_len: int | None = None,
        temperature: float = 0.0,
        text_column: str = "text",
        long_texts: str = "split",
        seed: int = 0,
        *,
        revision: str | None = None,
        markup: str | None = None,
        primer: Iterable[Any] | None = None,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        max_windows: int | None = None,
        max_pairs: int | None = None,
        engine_options: Mapping[str, Any] | None = None,
        servers: Sequence[str] = (),
        workers: int = 1,
    ) -> None:
        kind = engine if isinstance(engine, str) else engine.kind
        check_workers(workers, engine)
        if servers and engine != "server":
            raise RecipeError(f"servers are given with engine={kind!r}; they are for engine='server'")
        model = "scripted" if kind == "scripted" else str(model)
        penalties = SMOL_PENALTIES.get(embedded_name(model), {})
        if frequency_penalty is None:
            frequency_penalty = penalties.get("frequency_penalty", 0.0)
        if presence_penalty is None:
            presence_penalty = penalties.get("presence_penalty", 0.0)
        markup = markup or ("chat" if model == "smol-base" else "paper")
        self._recipe = Recipe(
            model=model,
            revision=revision or "",
            engine=kind,
            markup=markup,
            primer=read_primer(primer if primer is not None else PRIMER if markup != "paper" else ()),
            shots=shots,
            max_new_tokens=max_new_tokens,
            max_model_len=max_model_len,
            temperature=temperature,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            long_texts=long_texts,
            max_windows=max_windows,
            max_pairs=max_pairs,
            text_column=text_column,
            seed=seed,
        )
        self._resolved = False
        self._engine_was_given = not isinstance(engine, str)
        self.engine_options = dict(engine_options or {}) | ({"servers": servers} if servers else {})
        self.workers = workers
        self.engine: Engine | None = None if isinstance(engine, str) else engine
        self._prompter: Prompter | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe, with the engine chosen and the model's revision looked up."""
        if not self._resolved:
            engine = choose_engine(self._recipe.engine)
            revision = resolve_revision(self._recipe.model, self._recipe.revision, engine)
            self._recipe = replace(self._recipe, engine=engine, revision=revision)
            self._resolved = True
        return self._recipe

    def features(self, source: Features | None = None) -> Features:
        """Give the features of a mapped dataset: the source's and the added columns'.

        Args:
            source: the features of the dataset to be mapped.
        """
        return Features({**(source or {}), **SYNTHESIS_FEATURES})

    def pairs(self, text: str) -> list[Pair]:
        """Write the pairs of one raw text, for trying a model in two lines."""
        [row] = self.synthesize([text])
        return [pair for shot in row.shots for pair in shot.pairs]

    def __call__(self, batch: Any) -> Any:
        """Add the columns of `schema.SYNTHESIS_FEATURES` to a batch.

        Args:
            batch: a batch of `Dataset.map` or `IterableDataset.map`, a `dict[str, list]`, or a `pyarrow.Table`.

        Returns:
            The source columns and the added ones, as many rows as there were; a table for a table. A batch of
            `Dataset.map` gets only the added ones: `map` keeps the source columns as they are.

        Raises:
            InputError: the text column is missing or holds something else than strings, or the batch has some
                of the added columns already.
            EngineError: the engine cannot be built, or died.
        """
        names = list(batch.column_names) if hasattr(batch, "column_names") else list(batch)
        self._check_columns(names)
        column = batch[self._recipe.text_column]
        texts = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
        rows = [row.columns() for row in self.synthesize(texts)]
        added = {name: TypedColumn([row[name] for row in rows], SYNTHESIS_FEATURES[name]) for name in ADDED_COLUMNS}
        if hasattr(batch, "column_names"):
            import pyarrow as pa

            sources = {name: batch.column(name) for name in names if name not in added}
            if pa.types.is_null(sources[self._recipe.text_column].type):
                sources[self._recipe.text_column] = sources[self._recipe.text_column].cast(pa.string())
            return pa.table({**sources, **{name: pa.array(values) for name, values in added.items()}})
        if isinstance(batch, LazyBatch):
            return added
        return {**batch, **added}

    def synthesize(
        self,
        texts: Iterable[str | None],
        on_shot: Callable[[Shot], None] | None = None,
        *,
        select: Callable[[str | None], bool] | None = None,
        journal: Journal | None = None,
        first_row: int = 0,
        block_rows: int | None = None,
        admits: Callable[[Job[list[Shot]]], bool] | None = None,
    ) -> Iterator[SynthesizedRow]:
        """Write pairs about a stream of raw texts; one row each, in order, as soon as it and those before are done.

        Memory does not grow with the stream. Closing the iterator aborts what is under way.

        Args:
            texts: the raw texts; None counts as empty.
            on_shot: called with each shot as soon as it is parsed, in whatever order they finish.
            select: tells which texts are asked about, the others pass as "not_selected"; None: all.
            journal: keeps completions from run to run; what it knows is not asked for again.
            first_row: the number of the first text, for the journal and in messages.
            block_rows: chains end before each row whose number is a multiple of it; None: only where the texts do.
            admits: asked before each chain whether it may begin; after the first that may not, no more rows come than
                those that were under way. None: all may.

        Raises:
            InputError: a text that is neither a string nor None.
            EngineError: the engine cannot be built, or died.
        """
        engine, prompter = self.open()
        dealer = Dealer(
            texts,
            self._recipe,
            prompter,
            engine.max_model_len,
            on_shot,
            select=select,
            journal=journal,
            first_row=first_row,
            block_rows=block_rows,
        )
        schedule = Schedule(engine, len(prompter.primer), first_guess=max(self._recipe.max_new_tokens // 2, 1))
        jobs = takewhile(admits, dealer.jobs()) if admits else dealer.jobs()
        finished = schedule.run(jobs)
        asked = n_pairs = 0
        try:
            for _, shots in finished:
                dealer.take(shots)
                asked, n_pairs = asked + len(shots), n_pairs + sum(len(shot.pairs) for shot in shots)
                if not n_pairs and asked - len(shots) < SILENT_SHOTS <= asked:
                    warnings.warn(self._silence(asked), stacklevel=2)
                yield from dealer.finished_rows()
        finally:
            finished.close()
        yield from dealer.finished_rows()

    def open(self) -> tuple[Engine, Prompter]:
        """Build the engine and the prompts' encoder, once.

        Raises:
            EngineError: the engine cannot be built here.
            RecipeError: the prompts leave no room for text.
        """
        if self.engine is None:
            recipe = self.recipe
            model = locate(recipe.model, recipe.engine)
            revision = recipe.revision if model == recipe.model else None
            self.engine = open_engine(recipe, model, revision, self.engine_options, self.workers)
        if self._prompter is None:
            prompter = Prompter(self.engine.tokenizer, MARKUPS[self._recipe.markup], self._recipe.primer)
            least = prompter.overhead + len(prompter.encode_text("a")) + self._recipe.max_new_tokens
            if least > self.engine.max_model_len:
                raise RecipeError(
                    f"max_model_len={self.engine.max_model_len} leaves no room for text: the markup and primer take "
                    f"{least - self._recipe.max_new_tokens - 1} tokens and max_new_tokens={self._recipe.max_new_tokens}"
                    "; raise max_model_len, or lower max_new_tokens, or give a shorter primer"
                )
            self._prompter = prompter
        return self.engine, self._prompter

    def close(self) -> None:
        """Free the model; the next call loads it again."""
        if self.engine is not None and not self._engine_was_given:
            self.engine.close()
            self.engine = self._prompter = None

    def __enter__(self) -> "Synthesizer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        # Dataset.map hashes this: all that decides the output, the package's version among it, and nothing else.
        if self._engine_was_given:
            raise EngineError(
                f"a Synthesizer built around an engine object ({type(self.engine).__qualname__}) cannot be pickled, "
                "so it neither travels to other processes nor has a cache; give the engine's name instead"
            )
        return {"recipe": self.recipe.to_dict(), "package": version("ipt-datasets")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._recipe = Recipe.from_dict(state["recipe"])
        self._resolved = True
        self._engine_was_given = False
        self.engine_options = {}
        self.workers = 1
        self.engine = None
        self._prompter = None

    def __repr__(self) -> str:
        recipe = self._recipe
        return f"Synthesizer(model={recipe.model!r}, engine={recipe.engine!r}, shots={recipe.shots})"

    def _silence(self, asked: int) -> str:
        others = ", ".join(repr(name) for name in MARKUPS if name != self._recipe.markup)
        return (
            f"{self._recipe.model!r} was asked {asked} times with markup={self._recipe.markup!r} and gave no pair; "
            f"`rejected` tells why. A model that was not tuned on this markup wants another one ({others})"
        )

    def _check_columns(self, names: Sequence[str]) -> None:
        if self._recipe.text_column not in names:
            raise InputError(
                f"there is no column {self._recipe.text_column!r}; the columns are {', '.join(names) or 'none'}; "
                "say which holds the raw texts with text_column="
            )
        clash = [name for name in ADDED_COLUMNS if name in names]
        if clash and len(clash) < len(ADDED_COLUMNS):
            raise InputError(
                f"the input already has columns named {', '.join(clash)}, which synthesis adds; rename or remove them"
            )


synthesize_batch = Synthesizer()
"""A `Synthesizer` with default arguments: `ds.map(synthesize_batch, batched=True)`."""
