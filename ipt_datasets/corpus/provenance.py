"""What a published card says beyond the folder's own: licences, how varied the texts are, sample rows, the command."""

import json
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import HfApi

from ipt_datasets.corpus.hub_repo import HUB_FAILURES
from ipt_datasets.corpus.inspect import folder_diversity
from ipt_datasets.corpus.publication import Config, Publication
from ipt_datasets.corpus.reproduce import reproducing_command
from ipt_datasets.models.embedded import EMBEDDED
from ipt_datasets.templating.report import DiversityReport

SAMPLE_ROWS = 5
SAMPLE_CHARACTERS = 600
UNKNOWN = "unknown: ask who published it"
_SMOL_LICENCE = "`apache-2.0` (SmolLM2-135M-Instruct and the adapter of ipt-datasets)"


def section(publication: Publication, repo_id: str, api: HfApi, license: str | None = None) -> str:  # noqa: A002
    """Write the part of a repository's card that is about one publication.

    Args:
        publication: what is published.
        repo_id: where to.
        api: is asked for the licences of the source and of the synthesizer.
        license: of the published data, as the user says; None: unknown.
    """
    body = publication.card.text.strip().replace("FOLDER_OR_REPO", repo_id)
    if any(config.name != config.local_name for config in publication.configs):
        block, loading = re.compile(r"```python\n.*?```\n", re.DOTALL), f"{_loading(publication, repo_id)}\n"
        body = block.sub(lambda _: loading, body, count=1)
    for path, file in publication.documents.items():
        body = body.replace(f"`{file.name}`", f"`{path}`")
    parts = [body, _licences(publication.recipe, api, license)]
    if report := folder_diversity(publication.path):
        parts.append(_diversity(report))
    first = next(config for config in publication.configs if config.name == publication.default)
    parts.append(_samples(first))
    if command := reproducing_command(publication.recipe):
        parts.append(f"## The command\n\n```bash\n{command}\n```")
    return "\n\n".join(parts)


def _loading(publication: Publication, repo_id: str) -> str:
    names = [config.name for config in publication.configs]
    lines = "\n".join(f'load_dataset("{repo_id}", "{name}")' for name in names)
    return f"```python\nfrom datasets import load_dataset\n\n{lines}\n```"


def _licences(recipe: Mapping[str, Any], api: HfApi, license: str | None) -> str:  # noqa: A002
    rows = [(f"raw texts, `{source}`", _licence_of(source, "dataset", api)) for source in _sources(recipe)]
    if synthesis := recipe.get("synthesis"):
        model = str(synthesis["model"])
        rows.append(
            (f"synthesizer, `{model}`", _SMOL_LICENCE if model in EMBEDDED else _licence_of(model, "model", api))
        )
    if synthesis or not recipe.get("mixture"):
        rows.append(("what the synthesizer wrote", "the synthesizer's licence may set terms for its output: read it"))
    rows.append(("this corpus", f"`{license}`" if license else "unknown: who published it did not say"))
    return "## Licences\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _sources(recipe: Mapping[str, Any]) -> list[str]:
    listed = [recipe.get("input") or {}, *(recipe.get("mixture") or {}).values()]
    return list(dict.fromkeys(str(one["source"]) for one in listed if "source" in one))


def _licence_of(name: str, kind: str, api: HfApi) -> str:
    """Look a licence up on the card of a Hub repository; never fails, for it is no part of what is published."""
    if "/" not in name or Path(name).exists():
        return UNKNOWN
    try:
        card = (api.dataset_info if kind == "dataset" else api.model_info)(name).card_data
    except HUB_FAILURES:
        return UNKNOWN
    said = card.get("license") if card else None
    return ", ".join(f"`{one}`" for one in ([said] if isinstance(said, str) else said)) if said else UNKNOWN


def _diversity(report: DiversityReport) -> str:
    opening = json.dumps(report.most_frequent_opening, ensure_ascii=False).replace("<!--", r"<\u0021--")
    rows = [
        f"{report.distinct_skeletons:,} different surfaces, contents taken out, of {report.texts:,} texts with pairs",
        f"{report.bare_share:.0%} begin with the raw text itself, without words of a template",
        f"the most frequent other opening has {report.most_frequent_opening_share:.1%}: `{opening}`",
    ]
    looked_at = report.texts + report.plain_texts
    listed = "\n".join(f"- {row}" for row in rows)
    return f"## How varied the texts are\n\nOf the first {looked_at:,} texts:\n\n{listed}"


def _samples(config: Config) -> str:
    rows: list[dict[str, Any]] = []
    for shard in config.shards:
        if len(rows) < SAMPLE_ROWS:
            with pq.ParquetFile(shard.local) as file:
                batches = file.iter_batches(batch_size=SAMPLE_ROWS)
                rows += islice((row for batch in batches for row in batch.to_pylist()), SAMPLE_ROWS - len(rows))
    shown = "\n".join(json.dumps(_shortened(row), ensure_ascii=False, default=str) for row in rows)
    # A comment's or a fence's marks inside a row must not end ours.
    shown = shown.replace("<!--", r"<\u0021--").replace("-->", r"--\u003e")
    heading = f"## The first rows of `{config.name}`\n\nLong values are cut after {SAMPLE_CHARACTERS} characters."
    return f"{heading}\n\n```json\n{shown}\n```"


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= SAMPLE_CHARACTERS else f"{value[:SAMPLE_CHARACTERS]}…"
    if isinstance(value, Mapping):
        return {name: _shortened(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(inner) for inner in value[:20]] + (["…"] if len(value) > 20 else [])
    return value
