"""Runs that are killed, interrupted, starved or disturbed: they go on and end as an undisturbed run does."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from datasets import load_dataset
from forking import in_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipt_datasets import Synthesizer, augment
from ipt_datasets.cli import main
from ipt_datasets.corpus import journal as journal_module
from ipt_datasets.corpus.folder import CARD, JOURNAL, OutputFolder
from ipt_datasets.corpus.journal import MAGIC, Journal
from ipt_datasets.durable import check_writable, write_json
from ipt_datasets.errors import EngineError, OutputError
from ipt_datasets.recipe import Recipe
from ipt_datasets.synthesis.engines import Completion
from ipt_datasets.synthesis.engines.scripted import ScriptedEngine

ROWS = 46
SETTINGS = {"shots": 3, "max_new_tokens": 300}
SHARD = 12


def texts(n: int) -> list[str | None]:
    """Texts of some kinds: most are short, some come again, some are empty, one is long."""
    made: list[str | None] = [f"Note {i}. The harbour has {i} boats and {i * 7} ropes." for i in range(n)]
    for again in range(4, n, 9):
        made[again] = "The same note again and again. It came in many copies."
    made[20 % n] = None
    made[7] = "\n\n".join(f"Part {part}. " + "The sea is wide and old. " * 9 for part in range(12))
    return made


def write_rows(file: Path, rows: list[str | None]) -> str:
    file.write_text("".join(json.dumps({"text": text, "number": i}) + "\n" for i, text in enumerate(rows)))
    return str(file)


@pytest.fixture(autouse=True)
def cheap_runs(monkeypatch):
    # datasets names each table by a hash of its pickle, which nobody asks for here and which costs more than a shard.
    monkeypatch.setattr("datasets.arrow_dataset.generate_fingerprint", lambda *_: "0")
    # A kill leaves what the operating system has: only a power cut could tell whether this was called.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def corpus(tmp_path):
    return write_rows(tmp_path / "notes.jsonl", texts(ROWS))


class Counting(ScriptedEngine):
    """Counts what it is asked; small steps, so that chains overtake each other."""

    def __init__(self) -> None:
        super().__init__(max_model_len=900, max_requests=5)
        self.asked = 0

    def submit(self, request_id, request):
        self.asked += 1
        super().submit(request_id, request)


def run(source: str, out: Path, engine: ScriptedEngine | None = None, **options):
    given = {"rows_per_shard": SHARD, "progress": False, "resume": True, **options}
    return augment(source, out, Synthesizer(engine=engine or Counting(), **SETTINGS), **given)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Give all that a folder holds; the file of the lock stays for ever and is empty."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files.pop(".lock", b"") == b""
    return files


class Disturbance:
    """Stands in for the calls that make things durable and does something at the n-th of them."""

    CALLS = ("write", "fsync", "rename", "unlink", "ftruncate")

    def __init__(self, at: int, phase: str, act: Callable[[], None], calls: tuple[str, ...] = CALLS) -> None:
        self.at, self.phase, self.act, self.calls, self.n = at, phase, act, calls, 0

    def install(self, monkeypatch) -> "Disturbance":
        for name in self.calls:
            monkeypatch.setattr(os, name, self._disturbed(name, getattr(os, name)))
        return self

    def _disturbed(self, name, call):
        def disturbed(*args, **kwargs):
            self.n += 1
            if self.n != self.at:
                return call(*args, **kwargs)
            if self.phase == "middle" and name == "write":
                call(args[0], bytes(args[1])[: len(args[1]) // 2])
            elif self.phase == "middle" and name == "fsync":
                os.truncate(args[0], os.fstat(args[0]).st_size // 2) if not _is_folder(args[0]) else None
            elif self.phase == "after":
                call(*args, **kwargs)
            self.act()
            return call(*args, **kwargs)

        return disturbed


def _is_folder(descriptor: int) -> bool:
    return os.path.isdir(f"/proc/self/fd/{descriptor}")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(source: str, out: Path, at: int, phase: str, calls=Disturbance.CALLS, **options) -> bool:
    """Run in a child that is killed at a call; tells whether the run came to that call."""

    def work():
        journal_module.SYNC_SECONDS = 0.0  # each record is flushed, so that there is something to interrupt
        Disturbance(at, phase, die, calls).install(pytest.MonkeyPatch())
        run(source, out, **options)

    status = in_child(work)
    assert status in (0, -signal.SIGKILL)
    return status != 0


def calls_of_a_run(source: str, out: Path, monkeypatch, calls=Disturbance.CALLS, **options) -> int:
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "SYNC_SECONDS", 0.0)
        count = Disturbance(0, "", die, calls).install(patch)
        run(source, out, **options)
    return count.n


WAYS = {
    "plain": {},
    "fraction": {"fraction": 0.4, "seed": 3},
    "shuffle": {"shuffle": True, "seed": 5},
    "limit": {"limit": 31, "rows_per_shard": 7},
}


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_seeded_points_a_run_ends_as_an_undisturbed_one(corpus, tmp_path, monkeypatch, way):
    options = WAYS[way]
    run(corpus, tmp_path / "first", **options)  # puts a shuffled input into the cache of datasets
    n = calls_of_a_run(corpus, tmp_path / "whole", monkeypatch, **options)
    whole = snapshot(tmp_path / "whole")
    assert whole == snapshot(tmp_path / "first")
    assert JOURNAL not in whole
    draw = random.Random(f"points of {way}")
    points = draw.sample([(at, phase) for at in range(1, n + 1) for phase in ("before", "middle", "after")], 16)
    for at, phase in points:
        out = tmp_path / f"{at}-{phase}"
        assert killed(corpus, out, at, phase, **options)
        run(corpus, out, **options)
        assert snapshot(out) == whole, f"killed {phase} call {at}"


@pytest.mark.slow
def test_killed_at_every_point(corpus, tmp_path, monkeypatch):
    options = {"limit": 20, "rows_per_shard": 9}
    n = calls_of_a_run(corpus, tmp_path / "whole", monkeypatch, **options)
    for at in range(1, n + 1):
        for phase in ("before", "middle", "after"):
            out = tmp_path / f"{at}-{phase}"
            assert killed(corpus, out, at, phase, **options)
            run(corpus, out, **options)
            assert snapshot(out) == snapshot(tmp_path / "whole"), f"killed {phase} call {at}"


def test_killed_again_and_again(corpus, tmp_path):
    run(corpus, tmp_path / "whole")
    draw = random.Random(1)
    kills = 0
    while killed(corpus, tmp_path / "out", draw.randint(8, 30), draw.choice(["before", "middle", "after"])):
        kills += 1
        assert kills < 60
    assert kills > 3
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("n_kept", [1, 2, 17, 30, 44])
def test_what_was_finished_is_not_asked_again(corpus, tmp_path, n_kept):
    undisturbed = Counting()
    run(corpus, tmp_path / "whole", undisturbed, rows_per_shard=1000)
    # The first write of a run is not one of the journal's records: those go through os.write alone.
    assert killed(corpus, tmp_path / "out", n_kept, "after", calls=("write",), rows_per_shard=1000)
    engine = Counting()
    run(corpus, tmp_path / "out", engine, rows_per_shard=1000)
    assert engine.asked == undisturbed.asked - n_kept
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_a_run_killed_while_it_overwrites_goes_on(tmp_path):
    corpus = write_rows(tmp_path / "in.jsonl", texts(14))
    run(corpus, tmp_path / "whole", seed=1)
    out = tmp_path / "out"
    for at in (1, 2, 3, 4, 5, 6, 7, 9, 12):
        run(corpus, out, overwrite=True, resume=False)
        assert killed(corpus, out, at, "before", overwrite=True, resume=False, seed=1)
        recipe = out / "recipe.json"
        if recipe.exists() and json.loads(recipe.read_text())["input"]["seed"] == 0:
            with pytest.raises(OutputError, match=r"these differ: input\.seed"):
                run(corpus, out, seed=1)
            run(corpus, out, seed=1, overwrite=True, resume=False)
        else:
            run(corpus, out, seed=1)
        assert snapshot(out) == snapshot(tmp_path / "whole")


def test_what_takes_its_name_is_on_the_disk(corpus, tmp_path, monkeypatch):
    calls = []
    rename = os.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "rename", lambda old, new: (calls.append((str(old), str(new))), rename(old, new)))
    run(corpus, tmp_path / "out")
    renamed = [(number, call) for number, call in enumerate(calls) if isinstance(call, tuple)]
    assert {Path(new).name for _, (_, new) in renamed} > {CARD, "recipe.json", JOURNAL, "train-00003.parquet"}
    for number, (old, new) in renamed:
        assert calls[number - 1] == old
        assert calls[number + 1] == str(Path(new).parent)
    names = [str(Path(new).relative_to(tmp_path / "out")) for _, (_, new) in renamed]
    for number in range(4):
        assert names.index(f"text/train-{number:05d}.parquet") < names.index(f"pairs/train-{number:05d}.parquet")
    assert names[-1] == CARD


# Signals, engines, disks


def ipt_in_child(arguments: list[str], said: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Run `ipt` in a child; what it says goes to a file."""

    def work():
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()
        return main(arguments)

    return in_child(work)


def at_step(n: int, act: Callable[[], None]) -> Callable[[], None]:
    """Let something happen in the n-th step of the scripted engine."""

    def prepare():
        step, steps = ScriptedEngine.step, []

        def disturbed(self):
            steps.append(1)
            if len(steps) == n:
                act()
            return step(self)

        ScriptedEngine.step = disturbed

    return prepare


def raise_engine_error() -> None:
    raise EngineError("the model server has gone away")


@pytest.mark.parametrize(
    ("act", "status", "says"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130, "stopped"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, "stopped"),
        (raise_engine_error, 1, "the model server has gone away"),
    ],
    ids=["ctrl-c", "sigterm", "engine"],
)
def test_what_stops_a_run_in_order_is_one_line_and_the_run_goes_on(tmp_path, act, status, says):
    corpus = write_rows(tmp_path / "in.jsonl", texts(ROWS) * 8)
    arguments = ["augment", corpus, str(tmp_path / "out"), "--engine", "scripted", "--rows-per-shard", "100"]
    said = tmp_path / "said"
    assert main([*arguments[:2], str(tmp_path / "whole"), *arguments[3:]]) == 0
    again = [*arguments, "--overwrite"]
    assert ipt_in_child(again, said, at_step(4, act)) == status
    [line] = [line for line in said.read_text().splitlines() if line.startswith("ipt: ")]
    assert says in line
    assert "kept" in line
    assert "--resume" in line
    assert "--overwrite" not in line
    assert (tmp_path / "out" / JOURNAL).stat().st_size > len(MAGIC)
    assert main([*arguments, "--resume"]) == 0
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_sigterm_ends_the_command_with_143(tmp_path):
    corpus = write_rows(tmp_path / "in.jsonl", texts(ROWS) * 100)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ipt_datasets.cli", "augment", corpus, str(out), "--engine", "scripted"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        journal = out / JOURNAL
        while not (journal.exists() and journal.stat().st_size > 1000) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == 143
    assert f"go on with: ipt augment {corpus}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("way", ["method", "weak reference"])
def test_a_signal_that_comes_while_an_object_goes_is_not_lost(tmp_path, number, status, way):
    def come(*_):
        os.kill(os.getpid(), number)
        time.sleep(0.01)  # the handler runs in here

    class Going:
        def __del__(self):
            if way == "method":
                come()

    def go():
        going = Going()
        watched = weakref.ref(going, come if way == "weak reference" else None)
        del going
        assert watched() is None

    corpus = write_rows(tmp_path / "in.jsonl", texts(ROWS) * 100)
    arguments = ["augment", corpus, str(tmp_path / "out"), "--engine", "scripted"]
    assert ipt_in_child(arguments, tmp_path / "said", at_step(2, go)) == status


def test_a_command_that_cannot_go_on_does_not_say_that_it_can(corpus, tmp_path, monkeypatch, capsys):
    run(corpus, tmp_path / "out")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ipt_datasets.corpus.templatize.templatize", interrupted)
    assert main(["templatize", str(tmp_path / "out"), str(tmp_path / "new")]) == 130
    assert capsys.readouterr().err.strip() == "ipt: stopped"


class Choking(Counting):
    """Fails on one text and answers the others."""

    def step(self):
        answered = super().step()
        return [
            (number, Completion([], "error", error="out of memory") if number == 3 else completion)
            for number, completion in answered
        ]


def test_a_text_on_which_the_engine_fails_is_not_asked_again(corpus, tmp_path):
    made = run(corpus, tmp_path / "whole", Choking(), rows_per_shard=1000)
    assert made.counts.statuses["engine_error"] > 0

    def work():
        Disturbance(40, "after", die, ("write",)).install(pytest.MonkeyPatch())
        run(corpus, tmp_path / "out", Choking(), rows_per_shard=1000)

    assert in_child(work) == -signal.SIGKILL
    run(corpus, tmp_path / "out", Counting(), rows_per_shard=1000)  # this one would not fail
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("at", [1, 5, 30, 61, 65, 75])
def test_a_full_disk_is_one_line_and_the_run_goes_on(corpus, tmp_path, monkeypatch, at):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        Disturbance(at, "middle", full).install(patch)
        with pytest.raises(OutputError, match=r"No space left on device; make room .* go on with --resume"):
            run(corpus, tmp_path / "out")
    run(corpus, tmp_path / "out")
    run(corpus, tmp_path / "whole")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("room", [1_000, 8_000, 20_000])
def test_a_file_that_may_not_grow_is_one_line(corpus, tmp_path, room):
    arguments = ["augment", corpus, str(tmp_path / "out"), "--engine", "scripted"]

    def starve():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    assert ipt_in_child(arguments, tmp_path / "said", starve) == 1
    [line] = [line for line in (tmp_path / "said").read_text().splitlines() if line.startswith("ipt: ")]
    assert "File too large; make room there" in line
    assert "--resume" in line
    assert main([*arguments, "--resume"]) == 0
    assert main(["augment", corpus, str(tmp_path / "whole"), "--engine", "scripted"]) == 0
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_two_runs_on_one_folder(corpus, tmp_path):
    reading, writing = os.pipe()

    class Waiting(Counting):
        def step(self):
            os.write(writing, b"x")
            time.sleep(60)
            return super().step()

    child = os.fork()
    if not child:
        try:
            run(corpus, tmp_path / "out", Waiting())
        finally:
            os._exit(0)
    assert os.read(reading, 1) == b"x"
    for options in ({}, {"resume": False, "overwrite": True}):
        with pytest.raises(OutputError, match="is in use: another run writes there"):
            run(corpus, tmp_path / "out", **options)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    run(corpus, tmp_path / "out")  # the lock went with its owner
    run(corpus, tmp_path / "whole")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


# The journal


PLACES = [(row, start, f"chain{row}") for row, start in ((0, 0), (2, 0), (2, 900), (5, 0))]


def filled(path: Path) -> list[tuple[tuple[int, int, str], Completion]]:
    """Write a journal of chains that were under way at the same time; gives its records in order."""
    kept = []
    with Journal(path) as journal:
        for turn in range(3):
            for number, place in enumerate(PLACES):
                error = "it said\nno \udcff" if (turn, number) == (1, 2) else ""
                completion = Completion([turn, number, 2**70 + turn], "error" if error else "stop", error=error)
                journal.keep(*place, completion)
                kept.append((place, completion))
    return kept


def known(path: Path) -> list[list[Completion]]:
    with Journal(path) as journal:
        return [list(journal.known(*place)) for place in PLACES]


def grouped(kept) -> list[list[Completion]]:
    return [[completion for there, completion in kept if there == place] for place in PLACES]


@pytest.fixture(scope="module")
def journal_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "whole"
    return path, filled(path)


def ends_of_records(path: Path) -> list[int]:
    """Give the size of the file behind each of its records, that of its beginning first."""
    data = path.read_bytes()
    ends = [len(MAGIC)]
    while ends[-1] < len(data):
        ends.append(ends[-1] + 20 + int.from_bytes(data[ends[-1] : ends[-1] + 4], "little"))
    return ends


def test_a_journal_gives_back_what_it_took(journal_file):
    path, kept = journal_file
    assert known(path) == grouped(kept)
    assert known(path) == grouped(kept)  # reading it wrote it anew


def test_a_journal_torn_at_any_byte_keeps_what_stands_before(journal_file, tmp_path):
    path, kept = journal_file
    data, ends = path.read_bytes(), ends_of_records(path)
    for length in (*range(ends[1] + 2), *range(ends[-3], len(data))):
        torn = tmp_path / "torn"
        torn.write_bytes(data[:length])
        whole = sum(end <= length for end in ends[1:])
        with Journal(torn) as journal:
            assert [list(journal.known(*place)) for place in PLACES] == grouped(kept[:whole])
            journal.keep(*PLACES[0], Completion([9], "length"))
        expected = grouped([*kept[:whole], (PLACES[0], Completion([9], "length"))])
        assert known(torn) == expected  # what came later did not glue to the torn end


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_journal_never_gives_a_wrong_record(journal_file, tmp_path, data):
    path, kept = journal_file
    content, ends = bytearray(path.read_bytes()), ends_of_records(path)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    tail = data.draw(st.binary(max_size=40))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(bytes(content) + tail)
    whole = sum(end <= at for end in ends[1:]) if at >= len(MAGIC) else 0
    assert known(damaged) == grouped(kept[:whole])


def test_a_journal_whose_records_were_exchanged_is_not_believed(journal_file, tmp_path):
    path, kept = journal_file
    data, ends = path.read_bytes(), ends_of_records(path)
    swapped = tmp_path / "swapped"
    pieces = [data[: ends[1]], data[ends[2] : ends[3]], data[ends[1] : ends[2]], data[ends[3] :]]
    swapped.write_bytes(b"".join(pieces))
    assert known(swapped) == grouped(kept[:1])


def test_a_damaged_journal_is_said_and_the_run_ends_well(corpus, tmp_path, caplog):
    run(corpus, tmp_path / "whole", rows_per_shard=1000)
    draw = random.Random(2)
    for number in range(6):
        out = tmp_path / str(number)
        assert killed(corpus, out, 40, "after", calls=("write",), rows_per_shard=1000)
        content = bytearray((out / JOURNAL).read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (out / JOURNAL).write_bytes(content)
        caplog.clear()
        run(corpus, out, rows_per_shard=1000)
        assert "computed again" in caplog.text
        assert snapshot(out) == snapshot(tmp_path / "whole")


def test_a_journal_forgets_what_a_shard_holds(journal_file, tmp_path):
    path, kept = journal_file
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    with Journal(copy) as journal:
        journal.forget(2)
        assert copy.stat().st_size < path.stat().st_size
        journal.keep(*PLACES[3], Completion([7], "stop"))
    after = grouped([*kept, (PLACES[3], Completion([7], "stop"))])
    assert known(copy) == [[], *after[1:]]
    with Journal(copy, first_row=5) as journal:
        assert list(journal.known(*PLACES[2])) == []
        assert list(journal.known(*PLACES[3])) == after[3]


# Files that a user named


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.booleans())))
def test_json_is_read_back_as_it_was_written(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "written.json"
    write_json(file, content)
    assert json.loads(file.read_text("utf-8")) == content


def test_json_with_lone_surrogates_is_utf_8(tmp_path):
    write_json(tmp_path / "out.json", {"text": "\ud83d hérön"})
    assert (tmp_path / "out.json").read_bytes() == '{\n  "text": "\\ud83d hérön"\n}\n'.encode()
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == {"text": "\ud83d hérön"}


def test_json_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "out.json"
    write_json(file, [1])

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"out\.json cannot be written: No space left on device; name another file"):
        write_json(file, [2])
    assert snapshot(tmp_path) == {"out.json": b"[\n  1\n]\n"}


def test_where_json_cannot_be_written_is_known_before(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path, tmp_path / "no" / "out.json", tmp_path / "file" / "out.json"):
        with pytest.raises(OutputError, match="cannot be written; expected a file in a folder that is there"):
            check_writable(wrong)
        with pytest.raises(OutputError, match="cannot be written"):
            write_json(wrong, [])
    check_writable(tmp_path / "file")  # it would be replaced
    monkeypatch.chdir(tmp_path)
    check_writable(Path("out.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Changed settings and inputs


def leaves(recipe: dict, prefix: str = "") -> list[str]:
    return [
        leaf
        for key, value in recipe.items()
        for leaf in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"])
    ]


def test_every_setting_that_changed_is_named(corpus, tmp_path):
    out = tmp_path / "out"
    run(corpus, out)
    recipe = json.loads((out / "recipe.json").read_text())
    keys = leaves(recipe)
    assert {f"synthesis.{field.name}" for field in fields(Recipe)} <= set(keys)
    for key in keys:
        changed = json.loads(json.dumps(recipe))
        *sections, name = key.split(".")
        inner = changed[sections[0]] if sections else changed
        inner[name] = "something else"
        (out / "recipe.json").write_text(json.dumps(changed))
        if key in ("package", "input.limit"):  # another version may go on; limits have a test of their own
            run(corpus, out)
            continue
        with pytest.raises(OutputError) as refused:
            run(corpus, out)
        assert f"these differ: {key} (was 'something else', is " in str(refused.value)


def test_a_limit_may_be_raised_but_not_lowered(corpus, tmp_path):
    for way in ({}, {"shuffle": True}):
        out = tmp_path / f"out{len(way)}"
        first = snapshot_of_run(corpus, out, limit=20, **way)
        with pytest.raises(OutputError, match=r"input\.limit \(was 20, is 19\)"):
            run(corpus, out, limit=19, **way)
        assert snapshot_of_run(corpus, out, limit=20, **way) == first
        grown = snapshot_of_run(corpus, out, limit=30, **way)
        assert all(grown[name] == content for name, content in first.items() if name.endswith(".parquet"))
        made = run(corpus, out, limit=None, **way)
        assert made.counts.rows == ROWS
        with pytest.raises(OutputError, match=r"input\.limit \(was None, is 30\)"):
            run(corpus, out, limit=30, **way)


def snapshot_of_run(source, out, **options):
    run(source, out, **options)
    return snapshot(out)


def _without(rows, at):
    return [*rows[:at], *rows[at + 1 :]]


def _with(rows, at, text):
    return [*rows[:at], text, *rows[at + 1 :]]


CHANGES = {
    "a text of a final shard": (lambda rows: _with(rows, 2, "Another text."), "row 2 differs in column 'text'"),
    "a row of a final shard is missing": (lambda rows: _without(rows, 3), "row 3 differs in column"),
    "two rows in another order": (lambda rows: [rows[1], rows[0], *rows[2:]], "row 0 differs in column 'text'"),
    "a text of the open shard": (lambda rows: _with(rows, 27, "Another text."), "changed since the run in"),
    "a row of the open shard is missing": (lambda rows: _without(rows, 25), "changed since the run in"),
    "most rows are gone": (lambda rows: rows[:5], "has 5 rows"),
    "the last rows are gone": (lambda rows: rows[:27], "is shorter than when the run in"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_input_that_changed_is_refused(tmp_path, monkeypatch, change):
    rows = [f"Note {i}. The harbour has {i} boats." for i in range(60)]
    source = write_rows(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out"

    class Tired(Counting):
        def step(self):
            if self.asked > 50:
                raise EngineError("tired")
            return super().step()

    with pytest.raises(EngineError, match=r"tired.* go on with --resume"):
        run(source, out, Tired(), rows_per_shard=24)
    before = snapshot(out)
    assert sum(name.startswith("pairs/") for name in before) == 1
    altered, says = CHANGES[change]
    (tmp_path / "in.jsonl").write_text(
        "".join(
            json.dumps({"text": text, "number": rows.index(text) if text in rows else 0}) + "\n"
            for text in altered(rows)
        )
    )
    with pytest.raises(OutputError, match=says) as refused:
        run(source, out, rows_per_shard=24)
    assert "--overwrite" in str(refused.value)
    write_rows(tmp_path / "in.jsonl", rows)
    run(source, out, rows_per_shard=24)  # as it was before: it goes on
    run(source, tmp_path / "whole", rows_per_shard=24)
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_an_input_with_other_columns_is_refused(corpus, tmp_path):
    run(corpus, tmp_path / "out")
    rows = [json.loads(line) for line in Path(corpus).read_text().splitlines()]
    Path(corpus).write_text("".join(json.dumps({**row, "source": "s"}) + "\n" for row in rows))
    with pytest.raises(OutputError, match=r"has other columns .*\(source\)"):
        run(corpus, tmp_path / "out")


# Growth


def test_a_corpus_grows_by_its_new_rows_alone(tmp_path):
    rows = texts(70)
    source = write_rows(tmp_path / "in.jsonl", rows[:50])
    out = tmp_path / "out"
    first = run(source, out)
    before = snapshot(out)
    engine = Counting()
    assert run(source, out, engine).counts == first.counts
    assert engine.asked == 0
    assert snapshot(out) == before
    write_rows(tmp_path / "in.jsonl", rows)
    made = run(source, out, engine)
    after = snapshot(out)
    assert all(after[name] == content for name, content in before.items() if name.endswith(".parquet"))
    assert engine.asked == made.counts.shots - first.counts.shots == 20
    pairs = load_dataset(str(out), "pairs", split="train")
    assert pairs["text"][:] == rows
    assert pairs["number"][:] == list(range(70))
    shots = pairs["shots"][:]
    assert shots[49][-1]["chain"] != shots[50][0]["chain"]
    assert shots[50][0]["position"] == 0
    assert made.counts.rows == made.counts.statuses.total() == 70
    card = after[CARD].decode()
    assert "| raw texts | 70 |" in card
    assert "path: text/train-*.parquet" in card
    assert not [name for name in after if Path(name).name.startswith(".")]


def test_an_unfinished_run_may_grow_too(tmp_path):
    rows = texts(70)
    source = write_rows(tmp_path / "in.jsonl", rows[:50])
    options = {"rows_per_shard": 1000}
    # After the last completion, so that the journal holds the last, short chain, too.
    assert killed(source, tmp_path / "out", run(source, tmp_path / "x").counts.shots, "after", ("write",), **options)
    write_rows(tmp_path / "in.jsonl", rows)
    run(source, tmp_path / "out", **options)
    run(source, tmp_path / "whole", **options)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_killed_while_it_grows_a_corpus_is_never_broken(tmp_path, monkeypatch):
    rows = texts(40)
    source = write_rows(tmp_path / "in.jsonl", rows[:25])
    for name in ("whole", "seed"):
        run(source, tmp_path / name)
    write_rows(tmp_path / "in.jsonl", rows)
    n = calls_of_a_run(source, tmp_path / "whole", monkeypatch)
    whole = snapshot(tmp_path / "whole")
    old = load_dataset(str(tmp_path / "seed"), split="train").to_list()
    new = load_dataset(str(tmp_path / "whole"), split="train").to_list()
    assert len(new) > len(old)
    seen = set()
    draw = random.Random(4)
    for at in sorted({*draw.sample(range(1, n + 1), 5), n - 8, n - 2, n}):
        out = tmp_path / f"{at}"
        write_rows(tmp_path / "in.jsonl", rows[:25])
        run(source, out)
        write_rows(tmp_path / "in.jsonl", rows)
        assert killed(source, out, at, draw.choice(["before", "middle", "after"]))
        loaded = list(load_dataset(str(out), split="train", streaming=True))
        assert loaded in (old, new)
        pairs = load_dataset(str(out), "pairs", split="train", streaming=True)
        assert sum(1 for _ in pairs) == (25 if loaded == old else 40)
        seen.add(len(loaded))
        run(source, out)
        assert snapshot(out) == whole, f"killed at call {at}"
    assert seen == {len(old), len(new)}


def test_a_folder_that_lost_a_shard_does_not_go_on(corpus, tmp_path):
    out = tmp_path / "out"
    run(corpus, out, limit=30)
    OutputFolder(out).shards("text")[0].unlink()
    with pytest.raises(OutputError, match="its card says otherwise"):
        run(corpus, out)
    (out / CARD).unlink()
    with pytest.raises(OutputError, match=r"is damaged: text/train-00000\.parquet is missing"):
        run(corpus, out)
