"""`publish` when the Hub refuses or fails, others commit, or kill -9 comes: old or new, never half, never twice."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import traceback
from types import SimpleNamespace

import pytest
from filelock import FileLock
from huggingface_hub import HfApi
from loopback_hub.faults import Fault
from loopback_hub.store import File
from publish_client import publish_in_child
from publish_parts import REPO, header, holds, local_files, make_corpora, remote_shards, uploads, without_waiting

from ipt_datasets.corpus.publish import publish
from ipt_datasets.errors import OutputError, RecipeError


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return make_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    without_waiting(monkeypatch)


# -- refusals: in one line, before anything is uploaded, without the token


@pytest.mark.parametrize(
    ("repo", "options", "says"),
    [
        (REPO, {"token": "hf_unknown"}, "log in anew"),
        (REPO, {"token": "hf_reader"}, "use one with write access"),
        ("other/notes", {}, "use one with write access"),
        ("other/hidden", {}, "use one with write access"),
        ("other/shown", {}, "use one with write access"),
        (REPO, {"create_pr": True}, "a pull request needs a repository"),
        (REPO, {"token": "hf_bro\nken"}, "holds characters that no token has"),
    ],
)
def test_refused_before_anything_is_uploaded(hub, corpora, caplog, repo, options, says):
    api = HfApi(endpoint=hub.endpoint, token="hf_other")
    api.create_repo("other/hidden", repo_type="dataset", private=True)
    api.create_repo("other/shown", repo_type="dataset")
    with pytest.raises(OutputError, match=says) as refused:
        publish(corpora.old, repo, endpoint=hub.endpoint, **options)
    assert not uploads(hub)
    assert not hub.requests("objects/batch")
    assert "\n" not in str(refused.value)
    said = "".join(traceback.format_exception(refused.value)) + caplog.text
    assert not re.search("hf_(writer|reader|unknown|bro)", said)


@pytest.mark.parametrize("repo", ["a/b/c", "me/no tes", "me/-notes", "me/a--b", "", "me/x.git"])
def test_an_impossible_name_is_refused(hub, corpora, repo):
    with pytest.raises(RecipeError, match="NAMESPACE/NAME"):
        publish(corpora.old, repo, endpoint=hub.endpoint)
    assert not hub.log


def test_a_missing_token_is_refused(hub, corpora, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("ipt_datasets.corpus.hub_repo.get_token", lambda: None)
    with pytest.raises(OutputError, match="there is no token for the Hub; log in with `hf auth login` or set HF_TOKEN"):
        publish(corpora.old, REPO, endpoint=hub.endpoint)
    assert not hub.log


def test_offline_and_unreachable_hubs(hub, corpora, monkeypatch):
    with pytest.raises(OutputError, match=r"connection to http://127\.0\.0\.1:9 failed"):
        publish(corpora.old, REPO, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OutputError, match="HF_HUB_OFFLINE is set"):
        publish(corpora.old, REPO, endpoint=hub.endpoint)


def test_folders_that_are_not_whole_are_refused(hub, corpora, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(corpora.old, folder)
    with FileLock(folder / ".lock"), pytest.raises(OutputError, match="in use"):
        publish(folder, REPO, endpoint=hub.endpoint)
    shard = folder / "pairs" / "train-00001.parquet"
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(OutputError, match=r"'pairs' in .* are not those its README.md was written for"):
        publish(folder, REPO, endpoint=hub.endpoint)
    card = folder / "README.md"
    card.write_text(re.sub("description: content .*", "description: none", card.read_text()))
    shard.write_bytes(content[:-20])
    with pytest.raises(OutputError, match=r"00001\.parquet is damaged"):
        publish(folder, REPO, endpoint=hub.endpoint)
    card.write_text("---\nconfigs: [{a: 1}]\n---\n")
    with pytest.raises(OutputError, match="no header that can be read"):
        publish(folder, REPO, endpoint=hub.endpoint)
    card.unlink()
    with pytest.raises(OutputError, match="is not finished"):
        publish(folder, REPO, endpoint=hub.endpoint)
    assert not (folder / "README.md").exists()
    with pytest.raises(OutputError, match="is no folder"):
        publish(tmp_path / "nothing", REPO, endpoint=hub.endpoint)
    assert not hub.api.repos


@pytest.mark.parametrize("secret", ["hf_writer", "hf_" + "aB3" * 12])
def test_a_token_in_a_recipe_is_not_published(hub, corpora, tmp_path, secret):
    folder = tmp_path / "copy"
    shutil.copytree(corpora.old, folder)
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["input"]["source"] = f"https://user:{secret}@example.org/notes.jsonl"
    (folder / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(OutputError, match="looks like a token") as refused:
        publish(folder, REPO, endpoint=hub.endpoint)
    assert secret not in str(refused.value)
    assert not hub.api.repos


# -- faults

ENDPOINTS = {
    "whoami": "GET /api/whoami-v2",
    "info": "GET /api/datasets/me/notes$",
    "create": "POST /api/repos/create",
    "head": "GET /api/datasets/me/notes/revision/main",
    "tree": "GET /api/datasets/me/notes/tree/.*recursive=true",
    "preupload": "POST /api/datasets/me/notes/preupload",
    "batch": "POST .*/objects/batch",
    "put": "PUT /lfs/",
    "verify": "POST /lfs-verify",
    "yaml": "POST /api/validate-yaml",
    "commit": "POST /api/datasets/me/notes/commit/",
    "footer": "GET /datasets/me/notes/resolve/.*parquet",
}
FAULTS = {
    "500": {"status": 500},
    "503 html": {"status": 503, "body": b"<html>busy</html>"},
    "429": {"status": 429, "headers": {"Retry-After": "0"}},
    "dropped": {"drop": True},
    "lost": {"lose": True},
    "500 twice": {"status": 500, "times": 2},
}
FAULTS_FAST, FAULTS_SLOW = ("dropped", "lost"), ("500", "503 html", "429", "500 twice")


@pytest.mark.parametrize("fault", [*FAULTS_FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in FAULTS_SLOW)])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_passing_faults_are_survived(hub, corpora, endpoint, fault):
    hub.faults.append(Fault(ENDPOINTS[endpoint], **FAULTS[fault]))
    done = publish(corpora.old, REPO, endpoint=hub.endpoint)
    asked_again = (endpoint, fault) != ("commit", "lost")  # that one is found to be there
    assert hub.faults[0].seen >= hub.faults[0].times + asked_again
    assert holds(hub.head(REPO), corpora.old)
    assert done.commit == hub.head(REPO).oid
    assert len(hub.repo(REPO).history()) == 2  # never twice
    assert done.changed


def test_a_lost_pull_request_is_not_opened_twice(hub, corpora):
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    hub.faults.append(Fault(ENDPOINTS["commit"], lose=True))
    done = publish(corpora.new, REPO, create_pr=True, endpoint=hub.endpoint)
    assert len(hub.repo(REPO).pull_requests) == 1
    assert holds(hub.head(REPO, done.revision), corpora.new)


def test_the_hub_says_how_long_to_wait(hub, corpora, monkeypatch):
    slept = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=slept.append))
    hub.faults.append(Fault(ENDPOINTS["commit"], status=429, headers={"Retry-After": "77"}))
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    assert [round(seconds) for seconds in slept] == [77]


@pytest.mark.parametrize(
    ("endpoint", "status"),
    [
        *((endpoint, status) for endpoint in ("preupload", "batch", "commit") for status in (401, 403, 404)),
        *(pytest.param("commit", status, marks=pytest.mark.slow) for status in (409, 412, 429, 500)),
        *(pytest.param("batch", status, marks=pytest.mark.slow) for status in (409, 429, 500)),
    ],
)
def test_lasting_faults_end_in_one_line(hub, corpora, endpoint, status):
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    before = hub.head(REPO)
    hub.faults.append(Fault(ENDPOINTS[endpoint], status=status, times=1000, body=b'{"error": "hf_writer\\nis wrong"}'))
    with pytest.raises(OutputError, match=str(status)) as failed:
        publish(corpora.new, REPO, endpoint=hub.endpoint)
    assert "\n" not in str(failed.value)
    assert "hf_writer" not in str(failed.value)
    assert hub.head(REPO) is before


def test_more_files_than_a_batch_holds(hub, corpora):
    assert len(local_files(corpora.many)) == 60
    hub.faults.append(Fault(ENDPOINTS["batch"], status=403, skip=1, times=1000))  # the second batch of files
    with pytest.raises(OutputError, match="403"):
        publish(corpora.many, REPO, endpoint=hub.endpoint)
    assert not remote_shards(hub.head(REPO))
    there = len(uploads(hub))
    assert 0 < there < 60
    hub.faults.clear()
    hub.log.clear()
    publish(corpora.many, REPO, endpoint=hub.endpoint)
    assert holds(hub.head(REPO), corpora.many)
    assert len(uploads(hub)) == len(set(local_files(corpora.many).values())) - there
    assert len(hub.repo(REPO).history()) == 2


def test_somebody_commits_in_between(hub, corpora):
    publish(corpora.old, REPO, endpoint=hub.endpoint)

    def meddle():
        repo = hub.repo(REPO)
        files = dict(hub.head(REPO).files)
        card = files["README.md"].content.decode()
        files |= {"README.md": File((card + "\nAdded meanwhile.\n").encode()), "extra.txt": File(b"extra")}
        files.pop("text/train-00000.parquet")  # which we have just found to be there already
        repo.refs["refs/heads/main"] = repo.commit(hub.head(REPO).oid, files, "meddle", "", "other")

    hub.faults.append(Fault(ENDPOINTS["commit"], call=meddle))
    publish(corpora.new, REPO, endpoint=hub.endpoint)
    head = hub.head(REPO)
    assert holds(head, corpora.new)
    assert head.files["extra.txt"].content == b"extra"
    assert "Added meanwhile." in head.files["README.md"].content.decode()
    assert [commit.title for commit in hub.repo(REPO).history()].count("meddle") == 1


def test_two_publishers_at_once(hub, corpora):
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    hub.faults.append(Fault(ENDPOINTS["commit"], delay=0.3, times=2))
    done = []
    jobs = [(corpora.new, "left"), (corpora.many, "right")]
    threads = [
        threading.Thread(
            target=lambda job: done.append(publish(job[0], REPO, config_name=job[1], endpoint=hub.endpoint)), args=[job]
        )
        for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 2
    head = hub.head(REPO)
    names = {config["config_name"] for config in header(head)["configs"]}
    assert names == {"text", "pairs", "left", "left-pairs", "right", "right-pairs"}
    shards = remote_shards(head)
    assert {shards[path] for path in shards if path.startswith("left/")} == set(
        local_files(corpora.new / "text").values()
    )
    assert len([path for path in shards if path.startswith("right")]) == 60
    card = head.files["README.md"].content.decode()
    assert all(f"<!-- end of {name} -->" in card for name in ("text", "left", "right"))


def test_what_did_not_arrive_is_noticed(hub, corpora):
    hub.faults.append(Fault(ENDPOINTS["footer"], change=lambda body: body[:-8] + bytes(8), times=1000))
    with pytest.raises(OutputError, match=r"rows, expected|unreadable"):
        publish(corpora.old, REPO, endpoint=hub.endpoint)
    hub.faults[:] = [
        Fault("GET .*/tree/.*recursive=true", change=lambda body: body.replace(b"00001", b"00009"), skip=1)
    ]
    with pytest.raises(OutputError, match=r"00001\.parquet is missing"):
        publish(corpora.old, REPO, endpoint=hub.endpoint)
    other = (corpora.old / "text" / "train-00001.parquet").read_bytes()
    hub.faults[:] = [Fault(ENDPOINTS["footer"], change=lambda body: other, times=1000)]
    with pytest.raises(OutputError, match="is not what was published"):
        publish(corpora.many, REPO, endpoint=hub.endpoint)


# -- kill -9


def kill_at(hub, corpora, number, phase):
    """Kill a publisher at its request `number`; gives False where it had fewer requests and finished."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ipt_datasets.corpus.publish", "publish_client"])
    child = context.Process(target=publish_in_child, args=(hub.endpoint, str(corpora.new), REPO))
    struck = threading.Event()

    def strike():
        struck.set()
        os.kill(child.pid, signal.SIGKILL)

    hub.faults[:] = [Fault("", skip=number, **{phase: strike})]
    child.start()
    child.join()
    hub.faults.clear()
    assert child.exitcode == (-signal.SIGKILL if struck.is_set() else 0)
    return struck.is_set()


@pytest.mark.parametrize("phase", ["call", pytest.param("call_after", marks=pytest.mark.slow)])
def test_killed_at_each_request(hub, corpora, phase):
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    old = hub.head(REPO).oid
    large = dict(hub.api.large)
    number, n_new = 0, 0
    while True:
        hub.api.large = dict(large)
        repo = hub.repo(REPO)
        repo.refs["refs/heads/main"] = old
        if not kill_at(hub, corpora, number, phase):
            break
        assert all(holds(commit, corpora.old) or holds(commit, corpora.new) for commit in repo.history()[:-1])
        n_new += repo.refs["refs/heads/main"] != old
        missing = {content for content in local_files(corpora.new).values() if content not in hub.api.large.values()}
        hub.log.clear()
        publish(corpora.new, REPO, endpoint=hub.endpoint)
        assert len(uploads(hub)) == len(missing)
        assert holds(hub.head(REPO), corpora.new)
        assert len(repo.history()) == 3
        number += 1
    assert number > 12
    assert 0 < n_new < number
