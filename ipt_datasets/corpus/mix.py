"""`mix`: several sources in a ratio counted in tokens, evenly interleaved, streaming, the same for the same seed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ipt_datasets.corpus.card import PAPER, corpus_header
from ipt_datasets.corpus.folder import AUDIT, CARD, RECIPE, OutputFolder
from ipt_datasets.corpus.mixing.audit import MixAudit, SourceAudit, count_mixture
from ipt_datasets.corpus.mixing.documents import DocumentStream
from ipt_datasets.corpus.mixing.schedule import TokenSchedule
from ipt_datasets.corpus.mixing.sources import MixSource, read_sources
from ipt_datasets.corpus.tokenizing import DocumentTokenizer
from ipt_datasets.errors import InputError, OutputError, RecipeError
from ipt_datasets.schema import MIXTURE_FEATURES

MIXING_VERSION = 1
"""Rises whenever the same recipe would give another mixture."""

SHUFFLE_BUFFER = 10_000
DOCUMENTS_PER_SHARD = 20_000
SHARD_CHARACTERS = 32_000_000
"""A shard is closed early when its texts reach this length, so that long documents do not fill the memory."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """What `mix` made: the folder, and what it holds of each source."""

    path: Path
    audit: MixAudit


def mix(
    sources: Sequence[str | MixSource],
    output: str | Path,
    tokenizer: str,
    *,
    tokens: int | None = None,
    seed: int = 0,
    recipe: str | None = None,
    literal_tokens: bool = False,
    shuffle_buffer: int = SHUFFLE_BUFFER,
    tokenizer_revision: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    rows_per_shard: int = DOCUMENTS_PER_SHARD,
    progress: bool = True,
) -> Mixed:
    """Mix sources in a ratio counted in tokens.

    A document counts with its text, BOS (where the tokenizer has one) and EOS, of which neither is written. At every
    point of the mixture each source is within one document of its share. The folder holds the config `text` with the
    columns of `schema.MIXTURE_FEATURES`, and what came of each source in its card and in `audit.json`.

    Args:
        sources: `MixSource`s, or NAME=SOURCE:WEIGHT as the command line takes them.
        output: the folder to write.
        tokenizer: whose tokens count: "smol", a Hub id or a folder.
        tokens: how many in all; None: until a source that does not repeat has no document left.
        seed: decides the order of each source.
        recipe: "from-scratch" or "domain-adaptive", see `mixing.sources.RECIPES`.
        literal_tokens: write BOS and EOS into the texts as strings, for trainers that tokenize such texts.
        shuffle_buffer: so many documents of a source wait at a time, and a seeded one of them is next; its files come
            in a seeded order. 0: every source in its own order.
        tokenizer_revision: branch, tag or commit of the tokenizer's Hub id.
        resume: go on where a run stopped; starts one in an empty folder, checks a finished one.
        overwrite: replace what an earlier run wrote.
        rows_per_shard: documents a shard.
        progress: show a progress bar.

    Raises:
        InputError: a source cannot be read, has unknown columns or no documents, or ended though it must not.
        OutputError: the folder is in use, not empty, or belongs to another recipe.
        RecipeError: a setting is out of range.
        EngineError: the tokenizer is the embedded model's, which is not installed.
    """
    for name, value, least in (("tokens", tokens, 1), ("rows_per_shard", rows_per_shard, 1)):
        if value is not None and value < least:
            raise RecipeError(f"{name}={value!r}: expected a whole number of at least {least}")
    if shuffle_buffer < 0:
        raise RecipeError(f"shuffle_buffer={shuffle_buffer!r}: expected 0 or more documents")
    asked = read_sources(sources, recipe)
    if tokens is None and all(one.on_end == "repeat" and one.max_repeats is None for one in asked):
        raise RecipeError("every source repeats without limit: say where the mixture ends, with --tokens N")
    counter = DocumentTokenizer.load(tokenizer, tokenizer_revision)
    made_from = {
        "mixture": {one.name: one.to_dict() for one in asked},
        "order": [one.name for one in asked],
        "tokenizer": {**counter.identity, "revision": tokenizer_revision},
        "tokens": tokens,
        "seed": seed,
        "literal_tokens": literal_tokens,
        "shuffle_buffer": shuffle_buffer,
        "rows_per_shard": rows_per_shard,
        "version": MIXING_VERSION,
        "package": version("ipt-datasets"),
    }
    with OutputFolder(output) as folder:
        folder.check(made_from, resume=resume, overwrite=overwrite)
        if folder.is_finished and not overwrite:
            return Mixed(folder.path, _verified(folder))
        run = _Run(folder, [DocumentStream(one, counter, seed, shuffle_buffer) for one in asked], counter, tokens)
        if overwrite or not (folder.path / RECIPE).exists():
            run.check_first_documents()
        folder.begin(made_from, overwrite=overwrite)
        with tqdm(total=tokens, unit=" tokens", unit_scale=True, disable=not progress) as bar:
            ended_by = run.write(literal_tokens, rows_per_shard, bar)
        audit = run.audit(ended_by)
        folder.write_text(AUDIT, json.dumps(audit.to_dict(), indent=2, ensure_ascii=False) + "\n")
        folder.write_text(CARD, _card(made_from, audit, folder.digest("text")))
    return Mixed(folder.path, audit)


class _Run:
    """Takes documents by schedule and writes them as shards, from where the shards that are there end."""

    def __init__(
        self, folder: OutputFolder, streams: Sequence[DocumentStream], counter: DocumentTokenizer, tokens: int | None
    ) -> None:
        self._folder, self._streams, self._counter, self._tokens = folder, streams, counter, tokens
        self._schedule = TokenSchedule([Fraction(stream.asked.weight) for stream in streams], tokens)

    def check_first_documents(self) -> None:
        """Refuse what would leave out a source altogether.

        Raises:
            InputError: a source holds no document, or its first is too long for the plan.
        """
        for number, stream in enumerate(self._streams):
            document = stream.peek()
            planned = self._schedule.planned(number)
            if document and self._tokens is not None and document.tokens > 2 * planned:
                raise InputError(
                    f"{planned:,} of {self._tokens:,} tokens are planned for source {stream.asked.name!r}, and its "
                    f"first document has {document.tokens:,}: ask for more with --tokens, or give it another weight"
                )

    def write(self, literal_tokens: bool, rows_per_shard: int, bar: Any) -> str | None:
        """Write the shards that are missing; gives the name of the source that ended the mixture.

        Raises:
            InputError: a source cannot be read on, or ended though it must not; of a mixture that fails so nothing
                stays.
        """
        for documents in self._replayed(literal_tokens):
            bar.update(documents)
        columns: dict[str, list[Any]] = {name: [] for name in MIXTURE_FEATURES}
        characters, shard = 0, len(self._folder.shards("text"))
        while (number := self._next()) is not None:
            stream = self._streams[number]
            if stream.peek() is None:
                break
            document = stream.take()
            self._schedule.take(number, document.tokens)
            text = self._counter.literal(document.text) if literal_tokens else document.text
            values = (text, stream.asked.name, document.row, document.tokens, document.repeat)
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
            characters += len(text)
            if len(columns["text"]) >= rows_per_shard or characters >= SHARD_CHARACTERS:
                self._folder.write_shard("text", shard, columns, MIXTURE_FEATURES)
                shard, characters = shard + 1, 0
                columns = {name: [] for name in MIXTURE_FEATURES}
            bar.update(document.tokens)
        if number is not None:
            self._check_end(self._streams[number].asked)
        if columns["text"]:
            self._folder.write_shard("text", shard, columns, MIXTURE_FEATURES)
        return None if number is None else self._streams[number].asked.name

    def audit(self, ended_by: str | None) -> MixAudit:
        """Say what was planned and what came of it."""
        counts = count_mixture(self._folder.shards("text"))
        return MixAudit(
            tuple(self._audit_source(number, stream, counts) for number, stream in enumerate(self._streams)),
            str(self._counter.identity["name"]),
            self._tokens,
            ended_by,
        )

    def _next(self) -> int | None:
        heads = [stream.peek() for stream in self._streams]
        return self._schedule.choose([head.tokens if head else None for head in heads])

    def _replayed(self, literal_tokens: bool) -> Iterator[int]:
        """Take again what the final shards hold, without counting its tokens anew; yields the tokens of each batch."""
        numbers = {stream.asked.name: number for number, stream in enumerate(self._streams)}
        for shard in self._folder.shards("text"):
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(1_000, columns=["text", "source", "row", "n_tokens"]):
                    rows = batch.to_pylist()
                    for row in rows:
                        number = numbers[row["source"]]
                        document = self._streams[number].replay()
                        text = document and (self._counter.literal(document.text) if literal_tokens else document.text)
                        if document is None or (text, document.row) != (row["text"], row["row"]):
                            raise OutputError(
                                f"source {row['source']!r} is not what it was when {self._folder.path} was begun (row "
                                f"{row['row']!r} differs); write the mixture anew with --overwrite"
                            )
                        self._schedule.take(number, row["n_tokens"])
                    yield sum(row["n_tokens"] for row in rows)

    def _check_end(self, asked: MixSource) -> None:
        if asked.on_end != "fail":
            return
        self._folder.drop_shards("text", 0)
        if (self._folder.path / "text").is_dir():
            (self._folder.path / "text").rmdir()
        (self._folder.path / RECIPE).unlink()
        number = [stream.asked for stream in self._streams].index(asked)
        raise InputError(
            f"source {asked.name!r} ended after {self._schedule.tokens[number]:,} tokens and more were planned, and it "
            "has on_end 'fail': ask for fewer with --tokens, or choose stop or repeat with --on-end"
        )

    def _audit_source(self, number: int, stream: DocumentStream, counts: Mapping[str, Any]) -> SourceAudit:
        asked, there = stream.asked, counts.get(stream.asked.name)
        return SourceAudit(
            name=asked.name,
            source=asked.source,
            read_as=stream.layout.description,
            weight=f"{float(asked.weight):g}",
            share=round(float(self._schedule.share(number)), 6),
            planned_tokens=self._schedule.planned(number),
            tokens=there.tokens if there else 0,
            documents=there.documents if there else 0,
            repeats=there.repeats if there else 0,
            skipped=dict(sorted(stream.skipped.items())),
            on_end=asked.on_end if asked.max_repeats is None else f"{asked.on_end} {asked.max_repeats} at most",
        )


def _verified(folder: OutputFolder) -> MixAudit:
    """Check a finished folder: its shards can be read, and hold what its audit says.

    Raises:
        OutputError: they do not.
    """
    try:
        written = json.loads((folder.path / AUDIT).read_text("utf-8"))
        sources = tuple(SourceAudit(**source) for source in written["sources"])
        counts = count_mixture(folder.shards("text"))
    except Exception as error:
        raise OutputError(f"{folder.path} is damaged: {error}; write it anew with --overwrite") from error
    for source in sources:
        there = counts.get(source.name)
        if (there.tokens, there.documents) != (source.tokens, source.documents) if there else source.documents:
            raise OutputError(
                f"{folder.path} holds {there.documents if there else 0:,} documents of source {source.name!r}, its "
                f"audit says {source.documents:,}; write it anew with --overwrite"
            )
    return MixAudit(sources, written["tokenizer"], written["asked_tokens"], written["ended_by"])


def _card(recipe: Mapping[str, Any], audit: MixAudit, digest: str) -> str:
    form = "with BOS and EOS written into it" if recipe["literal_tokens"] else "without BOS and EOS"
    remarks = "\n".join(f"- {remark}" for remark in audit.remarks())
    read_from = "\n".join(f"| {source.name} | `{source.source}` | {source.on_end} |" for source in audit.sources)
    return f"""{corpus_header({"text": digest})}

# A mixture counted in tokens

{audit.documents:,} documents, {audit.tokens:,} tokens, for [Instruction Pre-Training]({PAPER}). Made with
`ipt-datasets` {recipe["package"]} by seed {recipe["seed"]}; at every point each source is within one document of its
share. One document a row {form}; loss on all tokens.

## Audit

{audit.table()}

{remarks}

| source | read from | at its end |
|---|---|---|
{read_from}

The whole recipe is in `recipe.json`, the audit in `audit.json`.
"""
