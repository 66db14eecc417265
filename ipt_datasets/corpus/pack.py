"""`pack`: documents as rows of equally many token ids, with the bounds of the documents, ready for a trainer."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ipt_datasets.corpus.card import PAPER, corpus_header
from ipt_datasets.corpus.folder import AUDIT, CARD, RECIPE, OutputFolder
from ipt_datasets.corpus.mixing.layouts import Skipped, checked_text
from ipt_datasets.corpus.packing import columns_of, cut_blocks, place_behind, tokens_of
from ipt_datasets.corpus.source import check_text_column, iter_rows, known_rows, open_source
from ipt_datasets.corpus.tokenizing import DocumentTokenizer
from ipt_datasets.errors import InputError, OutputError, RecipeError
from ipt_datasets.schema import PACKED_FEATURES

PACKING_VERSION = 1
"""Rises whenever the same recipe would give other rows."""

RESTS = ("drop", "keep")
SHARD_TOKENS = 2**23
BATCH_DOCUMENTS, BATCH_CHARACTERS = 256, 1_000_000


@dataclass(slots=True)
class PackCounts:
    """What a packed corpus holds.

    Attributes:
        documents: that were packed.
        tokens: of all of them, BOS and EOS of each included; rows and a dropped rest add up to it.
        rows: that were written.
        rest: what became of the tokens behind the last whole row, "drop" or "keep".
        rest_tokens: how many there are.
        skipped: rows of the source without a document, by reason.
        literal: documents that begin with BOS or end with EOS as a string, which was packed as plain text.
    """

    documents: int = 0
    tokens: int = 0
    rows: int = 0
    rest: str = "drop"
    rest_tokens: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    literal: int = 0

    def remarks(self) -> list[str]:
        """Say in sentences what a user should know about the rows."""
        said = []
        if self.rest_tokens:
            fate = "were dropped" if self.rest == "drop" else "are the last row, a shorter one"
            said.append(f"The {self.rest_tokens:,} tokens behind the last whole row {fate}.")
        if self.skipped:
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(self.skipped.items()))
            said.append(f"Rows of the source without a document: {reasons}.")
        if self.literal:
            said.append(
                f"{self.literal:,} texts begin with BOS or end with EOS as a string; these were packed as plain text. "
                "If they are meant as tokens, pack anew with --literal-tokens."
            )
        return said


@dataclass(frozen=True, slots=True)
class Packed:
    """What `pack` made: the folder, and what it holds."""

    path: Path
    counts: PackCounts


def pack(
    source: str,
    output: str | Path,
    tokenizer: str,
    *,
    length: int = 4096,
    rest: str = "drop",
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    text_column: str = "text",
    literal_tokens: bool = False,
    tokenizer_revision: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    rows_per_shard: int | None = None,
    progress: bool = True,
) -> Packed:
    """Pack the texts of a corpus into rows of `length` token ids.

    BOS (where the tokenizer has one) and EOS stand around each document as ids; nothing in a text becomes a control
    id. Documents follow each other in the order of the source, and one that is longer than what a row has left goes on
    in the next. No token is lost or doubled, except for a dropped rest. The folder holds the config `packed` with the
    columns of `schema.PACKED_FEATURES`.

    Args:
        source: a folder that `mix` or `augment` wrote, or whatever `load_dataset` takes.
        output: the folder to write.
        tokenizer: "smol", a Hub id or a folder.
        length: token ids a row.
        rest: what becomes of the tokens behind the last whole row: "drop", or "keep" as a shorter row.
        split: of the source.
        config_name: of the source.
        revision: of the source, where it is a Hub id.
        text_column: of the source.
        literal_tokens: take BOS and EOS away where they stand around a text as strings, as `mix` can write them.
        tokenizer_revision: branch, tag or commit of the tokenizer's Hub id.
        resume: go on where a run stopped; starts one in an empty folder, checks a finished one.
        overwrite: replace what an earlier run wrote.
        rows_per_shard: rows a shard; None: about 8 million tokens.
        progress: show a progress bar.

    Raises:
        InputError: the source cannot be read, has no such column or no documents.
        OutputError: the folder is in use, not empty, or belongs to another recipe.
        RecipeError: a setting is out of range.
        EngineError: the tokenizer is the embedded model's, which is not installed.
    """
    rows_per_shard = max(1, SHARD_TOKENS // max(1, length)) if rows_per_shard is None else rows_per_shard
    for name, value, least in (("length", length, 2), ("rows_per_shard", rows_per_shard, 1)):
        if value < least:
            raise RecipeError(f"{name}={value!r}: expected a whole number of at least {least}")
    if rest not in RESTS:
        raise RecipeError(f"rest={rest!r}: expected one of {', '.join(RESTS)}")
    encoder = DocumentTokenizer.load(tokenizer, tokenizer_revision)
    opened = open_source(source, split=split, config_name=config_name, revision=revision)
    check_text_column(opened, text_column, source)
    recipe = {
        "input": {
            "source": source,
            "split": split,
            "config_name": config_name,
            "revision": revision,
            "text_column": text_column,
        },
        "tokenizer": {**encoder.identity, "revision": tokenizer_revision},
        "length": length,
        "rest": rest,
        "literal_tokens": literal_tokens,
        "rows_per_shard": rows_per_shard,
        "version": PACKING_VERSION,
        "package": version("ipt-datasets"),
    }
    with OutputFolder(output) as folder:
        folder.check(recipe, resume=resume, overwrite=overwrite)
        if folder.is_finished and not overwrite:
            return Packed(folder.path, _verified(folder))
        folder.begin(recipe, overwrite=overwrite)
        counts = PackCounts(rest=rest)
        with tqdm(total=known_rows(opened, source), unit=" documents", disable=not progress) as bar:
            rows = iter_rows(opened, source)
            texts = _texts((row[text_column] for row in rows), encoder, literal_tokens, counts, bar)
            _write(folder, texts, encoder, length, rows_per_shard, counts)
        if not counts.documents:
            (folder.path / RECIPE).unlink()  # nothing was begun
            why = ", ".join(f"{number:,} {reason}" for reason, number in counts.skipped.items())
            raise InputError(f"column {text_column!r} of {source} holds no documents ({why}); choose another")
        audit = {**asdict(counts), "skipped": dict(sorted(counts.skipped.items()))}
        folder.write_text(AUDIT, json.dumps(audit, indent=2) + "\n")
        folder.write_text(CARD, _card(recipe, counts, folder.digest("packed")))
    return Packed(folder.path, counts)


def _texts(
    rows: Iterable[str | None], encoder: DocumentTokenizer, literal_tokens: bool, counts: PackCounts, bar: Any
) -> Iterator[str]:
    """Give the texts that are documents, and count them and the others."""
    for row in rows:
        bar.update()
        try:
            text = checked_text(row)
            whole = encoder.without_literals(text)
            if literal_tokens:
                text = checked_text(whole)
        except Skipped as skipped:
            counts.skipped[skipped.reason] += 1
            continue
        counts.literal += whole != text
        counts.documents += 1
        yield text


def _write(
    folder: OutputFolder,
    texts: Iterator[str],
    encoder: DocumentTokenizer,
    length: int,
    rows_per_shard: int,
    counts: PackCounts,
) -> None:
    """Write the shards that are missing, and count them all.

    Raises:
        OutputError: the source is shorter than what was packed of it before.
    """
    shards = folder.shards("packed")
    if shards and tokens_of(shards[-1]) < rows_per_shard * length:
        folder.drop_shards("packed", len(shards) - 1)  # the last of its run, but for the card: cheaper made anew
        shards.pop()
    counts.rows = len(shards) * rows_per_shard
    counts.tokens = counts.rows * length
    whole, begun = place_behind(shards, encoder.eos_id)
    found = sum(1 for _ in islice(texts, whole))
    documents = _encoded(texts, encoder)
    first = next(documents, None)
    if found < whole or (begun and (first is None or len(first) <= begun)):
        raise OutputError(f"the source is not what it was when {folder.path} was begun; pack it anew with --overwrite")
    blocks = cut_blocks(chain([first] if first else [], documents), rows_per_shard * length, begun)
    for number, (ids, starts) in enumerate(blocks, len(shards)):
        counts.tokens += len(ids)
        counts.rest_tokens = len(ids) % length
        if counts.rest_tokens and counts.rest == "drop":
            ids, starts = ids[: -counts.rest_tokens], starts[: -counts.rest_tokens]
        if len(ids):
            columns = columns_of(ids, starts, length)
            folder.write_shard("packed", number, columns, PACKED_FEATURES)
            counts.rows += len(columns["continues"])
            del columns
        del ids, starts  # a block is large: not held while the next one fills


def _encoded(texts: Iterator[str], encoder: DocumentTokenizer) -> Iterator[list[int]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield from encoder.encode(batch)
            batch, characters = [], 0
    yield from encoder.encode(batch)


def _verified(folder: OutputFolder) -> PackCounts:
    """Check a finished folder: its shards can be read, and hold what its audit says.

    Raises:
        OutputError: they do not.
    """
    try:
        written = json.loads((folder.path / AUDIT).read_text("utf-8"))
        counts = PackCounts(**{**written, "skipped": Counter(written["skipped"])})
        rows = sum(pq.read_metadata(shard).num_rows for shard in folder.shards("packed"))
    except Exception as error:
        raise OutputError(f"{folder.path} is damaged: {error}; write it anew with --overwrite") from error
    if rows != counts.rows:
        raise OutputError(
            f"{folder.path} holds {rows:,} rows, its audit says {counts.rows:,}; write it anew with --overwrite"
        )
    return counts


def _card(recipe: Mapping[str, Any], counts: PackCounts, digest: str) -> str:
    given, tokenizer = recipe["input"], recipe["tokenizer"]
    remarks = "".join(f"- {remark}\n" for remark in counts.remarks())
    return f"""{corpus_header({"packed": digest})}

# Packed rows of {recipe["length"]:,} tokens

Documents of `{given["source"]}`, laid one behind the other and cut into rows, for [Instruction Pre-Training]({PAPER}).
Made with `ipt-datasets` {recipe["package"]}.

```python
from datasets import load_dataset
from transformers import Trainer, default_data_collator

rows = load_dataset("FOLDER_OR_REPO", split="train")
Trainer(model=model, args=args, train_dataset=rows, data_collator=default_data_collator)
```

`position_ids` begin at 0 with every piece of a document, also where a document goes on in the next row: from that,
transformers keeps documents from attending to each other (with flash attention one row a batch, otherwise any number).
A collator that adds an `attention_mask` turns this off, and so does `use_cache=True` in a training loop of your own.
`labels` are the ids, all with loss but the first of each piece. `seq_lengths` are the lengths of a row's pieces;
`continues` says that the first one goes on with the row before.

## Counts

| documents | {counts.documents:,} |
|---|--:|
| tokens, BOS and EOS of each document included | {counts.tokens:,} |
| rows of {recipe["length"]:,} tokens | {counts.rows:,} |
| tokens behind the last whole row ({counts.rest}) | {counts.rest_tokens:,} |
| rows of the source without a document | {counts.skipped.total():,} |

Tokenizer: `{tokenizer["name"]}`, BOS `{tokenizer["bos"] or "none"}`, EOS `{tokenizer["eos"]}`.
{remarks}
The whole recipe is in `recipe.json`.
"""
