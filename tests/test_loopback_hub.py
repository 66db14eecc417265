"""The Hub on loopback: the real clients work against it, and it fails when and how it is told to."""

import os
import subprocess
import sys

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from loopback_hub.faults import Fault

REPO = "me/things"


def in_a_process(hub, code):
    """Run code in a client process; gives the last line that it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **hub.environment()}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture
def api(hub):
    api = HfApi(endpoint=hub.endpoint, token="hf_writer")
    api.create_repo(REPO, repo_type="dataset")
    return api


def commit(api, files, **options):
    additions = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(REPO, additions, commit_message="add", repo_type="dataset", **options)


PUSH_AND_LOAD = """
from datasets import Dataset, DatasetDict, get_dataset_config_names, load_dataset
from huggingface_hub import DatasetCard, HfFileSystem, snapshot_download
import pyarrow.parquet as pq

rows = Dataset.from_dict({"text": [f"t{n}" for n in range(100)]})
DatasetDict({"train": rows, "test": rows.select(range(10))}).push_to_hub("me/x", num_shards={"train": 3, "test": 1})
rows.push_to_hub("me/x", "second", num_shards=4)
rows.push_to_hub("me/x", "second", num_shards=2)
rows.to_iterable_dataset().push_to_hub("me/x", "third", revision="side")
assert load_dataset("me/x")["test"].num_rows == 10
assert load_dataset("me/x", "second", split="train")["text"][:] == rows["text"][:]
assert next(iter(load_dataset("me/x", "third", split="train", streaming=True, revision="side"))) == {"text": "t0"}
assert get_dataset_config_names("me/x") == ["default", "second"]
files = HfFileSystem()
assert len(files.glob("datasets/me/x/second/*.parquet")) == 2
with files.open("datasets/me/x/data/train-00000-of-00003.parquet") as file:
    assert pq.read_metadata(file).num_rows == 34
card = DatasetCard.load("me/x")
card.text += "More."
card.push_to_hub("me/x")
assert "More." in open(snapshot_download("me/x", repo_type="dataset") + "/README.md").read()
print("done")
"""


@pytest.mark.slow
def test_datasets_pushes_and_loads(hub):
    hub.api.page_size, hub.api.part_size = 3, 400
    assert in_a_process(hub, PUSH_AND_LOAD) == "done"
    assert hub.requests("/lfs-join/")


MAPPED = """
from datasets import Dataset, load_dataset
from ipt_datasets import Synthesizer, Templatizer

texts = [f"Note {n}. The harbour has {n} boats. Nobody counts them twice." for n in range(12)]
rows = Dataset.from_dict({"text": texts})
pairs = rows.map(Synthesizer(engine="scripted", shots=2), batched=True)
texts = pairs.map(Templatizer(), batched=True, remove_columns=pairs.column_names)
texts.push_to_hub("me/augmented")
pairs.push_to_hub("me/augmented", "pairs")
there = load_dataset("me/augmented", split="train")
assert there.features == texts.features and there.to_list() == texts.to_list()
streamed = load_dataset("me/augmented", "pairs", split="train", streaming=True)
assert list(streamed) == pairs.to_list()
print(len(there), len(pairs))
"""


def test_mapped_rows_are_pushed_and_loaded(hub):
    assert in_a_process(hub, MAPPED) == "6 12"


def test_who_may_do_what(hub, api):
    def refused(token, question, *args, **options):
        with pytest.raises(HfHubHTTPError) as error:
            getattr(HfApi(endpoint=hub.endpoint, token=token), question)(*args, **options)
        return error.value.response.status_code

    dataset = {"repo_type": "dataset"}
    assert refused("hf_unknown", "whoami") == 401
    assert refused("hf_reader", "create_repo", "me/new", **dataset) == 403
    assert refused("hf_writer", "create_repo", "other/new", **dataset) == 403
    assert refused("hf_writer", "create_repo", REPO, **dataset) == 409
    assert refused("hf_other", "delete_repo", REPO, **dataset) == 403
    assert refused("hf_reader", "auth_check", REPO, write=True, **dataset) == 403
    api.create_repo("lab/hidden", private=True, **dataset)
    assert HfApi(endpoint=hub.endpoint, token="hf_reader").dataset_info("lab/hidden").private
    for token in ("hf_other", False):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(endpoint=hub.endpoint, token=token).dataset_info("lab/hidden")
    api.delete_repo("lab/hidden", **dataset)
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("lab/hidden")


def test_commits_branches_tags_and_pull_requests(hub, api):
    first = commit(api, {"a.txt": b"a", "folder/b.parquet": b"b" * 100, "folder/c.txt": b"c"}).oid
    stale = {"parent_commit": first}
    second = commit(api, {"a.txt": b"A"}, **stale).oid
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, {"a.txt": b"again"}, **stale)
    assert commit(api, {"a.txt": b"A"}).oid == second  # nothing changed
    with pytest.raises(EntryNotFoundError):
        api.create_commit(
            REPO, [CommitOperationDelete("nothing.txt")], commit_message="delete", repo_type="dataset", revision="main"
        )
    api.create_branch(REPO, branch="side/1", revision=first, repo_type="dataset")
    api.create_tag(REPO, tag="v1", revision=first, repo_type="dataset")
    refs = api.list_repo_refs(REPO, repo_type="dataset")
    assert {branch.name: branch.target_commit for branch in refs.branches} == {"main": second, "side/1": first}
    assert [tag.name for tag in refs.tags] == ["v1"]
    opened = commit(api, {"a.txt": b"B"}, create_pr=True)
    assert (opened.pr_revision, opened.pr_num) == ("refs/pr/1", 1)
    assert hub.head(REPO, "refs/pr/1").files["a.txt"].content == b"B"
    assert [asked.num for asked in api.get_repo_discussions(REPO, repo_type="dataset", discussion_status="open")] == [1]
    api.merge_pull_request(REPO, 1, repo_type="dataset")
    assert hub.head(REPO).files["a.txt"].content == b"B"
    assert [made.title for made in api.list_repo_commits(REPO, repo_type="dataset")][-1] == "initial commit"
    api.create_commit(REPO, [CommitOperationDelete("folder/")], commit_message="delete", repo_type="dataset")
    assert set(hub.head(REPO).files) == {".gitattributes", "a.txt"}
    for question in (api.dataset_info, api.list_repo_commits):
        with pytest.raises(RevisionNotFoundError):
            question(REPO, revision="nothing", **({} if question == api.dataset_info else {"repo_type": "dataset"}))


def test_listing_and_reading(hub, api):
    hub.api.page_size = 2
    files = {f"folder/{n}.parquet": bytes([n]) * 1000 for n in range(5)}
    made = commit(api, files)
    listed = list(api.list_repo_tree(REPO, recursive=True, repo_type="dataset"))
    assert sorted(entry.path for entry in listed) == sorted([".gitattributes", "folder", *files])
    assert api.get_paths_info(REPO, ["folder/1.parquet", "nothing"], repo_type="dataset")[0].lfs.size == 1000
    url = f"{hub.endpoint}/datasets/{REPO}/resolve/{made.oid}/folder/3.parquet"
    from huggingface_hub.utils import get_session

    for asked, status, length in [
        ("bytes=10-19", 206, 10),
        ("bytes=-8", 206, 8),
        ("bytes=990-", 206, 10),
        ("", 200, 1000),
    ]:
        answer = get_session().get(url, headers={"Range": asked} if asked else {})
        assert (answer.status_code, answer.content) == (status, b"\x03" * length)
        assert answer.headers["ETag"].strip('"') == hub.head(REPO).files["folder/3.parquet"].sha256
    assert get_session().get(url, headers={"Range": "bytes=1000-"}).status_code == 416


def test_large_files_in_parts_and_damaged_ones(hub, api):
    hub.api.part_size = 300
    commit(api, {"big.parquet": bytes(range(250)) * 4})
    assert hub.head(REPO).files["big.parquet"].content == bytes(range(250)) * 4
    assert len(hub.requests("PUT /lfs/")) == 4
    assert get_status(hub, "0" * 64, b"not that") == 400


def get_status(hub, sha256, content):
    from huggingface_hub.utils import get_session

    return get_session().put(f"{hub.endpoint}/lfs/{sha256}", content=content).status_code


@pytest.mark.parametrize(
    ("fault", "raises", "applied"),
    [
        ({"status": 503}, "503", False),
        ({"drop": True}, "disconnected", False),
        ({"lose": True}, "disconnected", True),
    ],
)
def test_faults(hub, api, fault, raises, applied):
    hub.faults.append(Fault("/commit/main", skip=1, **fault))
    commit(api, {"a.txt": b"1"})
    with pytest.raises(Exception, match=raises):
        commit(api, {"a.txt": b"2"})
    assert hub.head(REPO).files["a.txt"].content == (b"2" if applied else b"1")
    commit(api, {"a.txt": b"3"})
    assert hub.head(REPO).files["a.txt"].content == b"3"
    assert len(hub.requests("/commit/main")) == 3


def test_a_changed_answer_and_calls(hub, api):
    called = []
    hub.faults.append(
        Fault(
            "/revision/main",
            change=lambda body: body.replace(b'"private": false', b'"private": true'),
            call=lambda: called.append("before"),
            call_after=lambda: called.append("after"),
            delay=0.01,
        )
    )
    assert api.dataset_info(REPO, revision="main").private
    assert called == ["before", "after"]
    assert not api.dataset_info(REPO, revision="main").private
