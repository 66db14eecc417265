"""Parts that the tests of `publish` share: corpora to publish, and looks at what stands on a Hub."""

import json
from types import SimpleNamespace

from huggingface_hub import DatasetCard

from ipt_datasets import Synthesizer, augment
from ipt_datasets.corpus import hub_repo

REPO = "me/notes"


def make_corpus(folder, n_rows, rows_per_shard):
    source = folder / "notes.jsonl"
    folder.mkdir()
    texts = [f"Note {n}. The harbour has {n} boats and {n * 7} ropes. Nobody counts them twice." for n in range(n_rows)]
    source.write_text("".join(json.dumps({"text": text, "id": f"n{n}"}) + "\n" for n, text in enumerate(texts)))
    synthesizer = Synthesizer(engine="scripted", shots=2)
    return augment(str(source), folder / "out", synthesizer, rows_per_shard=rows_per_shard, seed=5, progress=False).path


def make_corpora(base):
    """One corpus in two versions, the newer with fewer shards, and one of many shards; tests must not change them."""
    return SimpleNamespace(
        old=make_corpus(base / "old", 18, 6),
        new=make_corpus(base / "new", 10, 6),
        many=make_corpus(base / "many", 60, 2),
    )


def without_waiting(monkeypatch):
    """Let retries of ours and of the client come at once."""
    import time

    monkeypatch.setattr(hub_repo, "FIRST_WAIT", 0.001)
    clock = SimpleNamespace(sleep=lambda _: None, time=time.time, perf_counter=time.perf_counter)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)


def local_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def remote_shards(commit):
    return {path: file.content for path, file in commit.files.items() if path.endswith(".parquet")}


def holds(commit, folder):
    """Tell whether a commit holds exactly a folder's shards."""
    return remote_shards(commit) == local_files(folder)


def header(commit):
    return DatasetCard(commit.files["README.md"].content.decode()).data.to_dict()


def uploads(hub):
    return hub.requests("PUT /lfs/")
