"""The card of a corpus, computed from its recipe and its counts."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ipt_datasets.corpus.counts import Counts
from ipt_datasets.schema import REJECT_REASONS, STATUSES

PAPER = "https://arxiv.org/abs/2406.14491"


def corpus_header(digests: Mapping[str, str]) -> str:
    """Write the YAML header of a card: the configs, the first of them the default.

    `load_dataset` caches a local folder by its name and by what this header says, not by the files' contents: two
    folders of one name would be taken for each other, and an overwritten one for what it was. The digest in the
    description keeps them apart.

    Args:
        digests: of the shards of each config, by its name.
    """
    configs: list[dict[str, Any]] = [
        {
            "config_name": name,
            "description": f"content {digest}",
            "data_files": [{"split": "train", "path": f"{name}/train-*.parquet"}],
        }
        for name, digest in digests.items()
    ]
    configs[0]["default"] = True
    tags = ["instruction-pre-training", "synthetic", "ipt-datasets"]
    header = {"configs": configs, "tags": tags, "task_categories": ["text-generation"]}
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---"


def pinned_card(card: str, files: Mapping[str, Sequence[str]]) -> str:
    """Let the header of a card name the files of its configs instead of all that their folders hold.

    Args:
        card: with a header as `corpus_header` writes it; another one stays as it is.
        files: names of each config's shards.
    """
    for name, shards in files.items():
        listed = ", ".join(f"{name}/{shard}" for shard in shards)
        card = card.replace(f"path: {name}/train-*.parquet\n", f"path: [{listed}]\n", 1)
    return card


def augmented_card(recipe: Mapping[str, Any], counts: Counts, digests: Mapping[str, str], n_parts: int = 1) -> str:
    """Write the README.md of a corpus that `augment` made.

    Args:
        recipe: what the run's recipe.json holds.
        counts: what its shards hold.
        digests: of the shards of each config, see `corpus_header`.
        n_parts: how many jobs' shards were joined.
    """
    synthesis, source = recipe["synthesis"], recipe["input"]
    asked = [
        ("source", f"`{source['source']}`, split `{source['split']}`"),
        ("synthesizer", f"`{synthesis['model']}` at `{synthesis['revision'] or 'no revision'}`"),
        ("engine", synthesis["engine"]),
        ("markup", f"{synthesis['markup']}, {len(synthesis['primer'])} primer shots"),
        ("shots a chain", synthesis["shots"]),
        ("temperature", synthesis["temperature"]),
        ("seeds", f"synthesis {synthesis['seed']}, templates {recipe['templating']['seed']}"),
        ("part that was augmented", f"{source['fraction']:g}"),
    ]
    if "shard" in recipe:
        asked.append(
            ("part of the source", f"shard {recipe['shard']['index']}/{recipe['shard']['count']}, to be joined")
        )
    if n_parts > 1:
        asked.append(("joined from", f"{n_parts} shards"))
    return f"""{corpus_header(digests)}

# Instruction-augmented texts

Raw texts, each followed by instruction-response pairs that a synthesizer wrote about it, {synthesis["shots"]} texts a
chain, rendered through varied templates: [Instruction Pre-Training]({PAPER}). Made with `ipt-datasets`
{recipe["package"]}.

```python
from datasets import load_dataset

texts = load_dataset("FOLDER_OR_REPO")           # config "text": one training text a row, loss on all tokens
pairs = load_dataset("FOLDER_OR_REPO", "pairs")  # one raw text a row, with its pairs, shots and rejects
```

## Counts

| raw texts | {counts.rows:,} |
|---|--:|
{_rows(counts.statuses, STATUSES)}

| pairs | {counts.n_pairs:,} |
|---|--:|
{_rows(counts.pairs)}

| rejected pieces of completions | {counts.rejected.total():,} |
|---|--:|
{_rows(counts.rejected, REJECT_REASONS)}

{counts.texts:,} training texts. The synthesizer was asked {counts.shots:,} times and read {counts.prompt_tokens:,} \
tokens and wrote {counts.completion_tokens:,}.

## How it was made

| | |
|---|---|
{_table(asked)}

The whole recipe is in `recipe.json`. The pairs were written by a language model and not checked by a person: expect
wrong ones among them.
"""


def templatized_card(recipe: Mapping[str, Any], texts: int, pairs: int, digests: Mapping[str, str]) -> str:
    """Write the README.md of training texts that `templatize` rendered from an existing corpus."""
    source, templating = recipe["input"], recipe["templating"]
    return f"""{corpus_header(digests)}

# Instruction-augmented texts, rendered anew

{texts:,} training texts with {pairs:,} instruction-response pairs: [Instruction Pre-Training]({PAPER}). Made with
`ipt-datasets` {recipe["package"]} from the pairs of `{source["source"]}` with templates drawn by seed
{templating["seed"]}; the recipe is in `recipe.json`.
"""


def _rows(counts: Mapping[str, int], meanings: Mapping[str, str] | None = None) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "\n".join(f"| {name}{f': {meanings[name]}' if meanings else ''} | {number:,} |" for name, number in ordered)


def _table(rows: list[tuple[str, Any]]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows)
