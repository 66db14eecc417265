"""`ipt plan`: a sample's figures beside those of a full run; samples, intervals and speeds for themselves."""

import json
import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_datasets import Synthesizer, augment
from ipt_datasets.cli import main
from ipt_datasets.corpus import sample as sample_module
from ipt_datasets.corpus.estimate import estimate_totals
from ipt_datasets.corpus.plan import plan
from ipt_datasets.corpus.sample import _drawn_from, _spread, _taken_at, draw_sample
from ipt_datasets.corpus.stopwatch import Stopwatch
from ipt_datasets.errors import InputError, IPTError, RecipeError
from ipt_datasets.synthesis.engines import Completion, Request
from ipt_datasets.synthesis.engines.scripted import ScriptedEngine, ScriptedTokenizer

ROWS = 300
WORDS = [
    "river",
    "stone",
    "lantern",
    "harbour",
    "copper",
    "violet",
    "engine",
    "orchard",
    "winter",
    "signal",
    "marble",
    "thunder",
    "meadow",
    "paper",
]


def texts() -> list[str]:
    """Texts of very different lengths, a few of them empty."""
    draw = random.Random(5)
    lengths = draw.choices([0, 1, 2, 4, 7, 12, 20, 60], [4, 8, 15, 25, 25, 15, 7, 1], k=ROWS)
    return [
        " ".join(f"{' '.join(draw.choices(WORDS, k=draw.randint(4, 14)))}." for _ in range(length))
        for length in lengths
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text, "id": f"t{n}"}) + "\n" for n, text in enumerate(texts())))
    return str(file)


@pytest.fixture(scope="module")
def full(corpus, tmp_path_factory):
    """What a full run gives, by the names of a plan."""
    made = augment(corpus, tmp_path_factory.mktemp("full") / "out", scripted(), progress=False)
    trained = load_dataset(str(made.path), split="train")["text"]
    return {
        "texts_with_pairs": made.counts.statuses["ok"],
        "pairs": made.counts.n_pairs,
        "prompt_tokens": made.counts.prompt_tokens,
        "output_tokens": made.counts.completion_tokens,
        "training_texts": made.counts.texts,
        "training_tokens": sum(len(ScriptedTokenizer().encode(text)) + 2 for text in trained),
        "bytes": sum(file.stat().st_size for file in made.path.glob("*/*.parquet")),
    }


def scripted(**options):
    return Synthesizer(engine="scripted", **{"shots": 2, **options})


def test_a_sample_tells_what_a_full_run_gives(corpus, full):
    seen, errors = Counter(), Counter()
    for seed in range(10):
        made = plan(corpus, scripted(), seed=seed, sample=64, progress=False)
        assert (made.texts, made.sample) == (ROWS, 64)
        for name, true in full.items():
            estimate = made.totals[name]
            assert estimate.low <= estimate.value <= estimate.high
            seen[name] += estimate.low <= true <= estimate.high
            errors[name] += abs(estimate.value - true) / true / 10
    assert max(errors.values()) < 0.15  # on average over the seeds
    counted = {name: number for name, number in seen.items() if name != "bytes"}  # small files take more a row
    assert sum(counted.values()) >= 0.75 * 10 * len(counted)  # 90% is meant


def test_a_sample_of_everything_has_no_error(corpus, full):
    made = plan(corpus, scripted(), sample=2 * ROWS, devices=4, mix_raw=0.5, progress=False)
    for name, true in full.items():
        assert made.totals[name].value == pytest.approx(true, rel=0.02 if name == "bytes" else 1e-9)
        assert made.totals[name].low == made.totals[name].high == made.totals[name].value
    assert made.totals["hours"].value == pytest.approx(made.totals["device_hours"].value / 4)
    mix = {name: part.value for name, part in made.mix.items()}
    assert mix["raw texts"] + mix["pairs"] == pytest.approx(full["training_tokens"], rel=1e-3)
    assert mix["other data"] == pytest.approx(full["training_tokens"] / 2)


def test_workers_are_the_devices_that_were_measured(corpus):
    made = plan(corpus, scripted(workers=2), sample=ROWS, progress=False)
    assert made.devices == 2
    assert made.totals["hours"].value == pytest.approx(made.totals["device_hours"].value / 2)
    assert "the speed is that of 2 workers together" in made.assumed
    more = plan(corpus, scripted(workers=2), sample=ROWS, devices=8, progress=False)
    assert more.totals["hours"].value == pytest.approx(more.totals["device_hours"].value / 8)


def test_a_fraction_passes_the_rest_as_plain_text(corpus):
    whole, part = (plan(corpus, scripted(), sample=ROWS, fraction=f, progress=False) for f in (1.0, 0.25))
    for name in ("pairs", "output_tokens", "texts_with_pairs"):
        assert part.totals[name].value == pytest.approx(whole.totals[name].value / 4)
    assert part.mix["raw texts"].value == pytest.approx(whole.mix["raw texts"].value)
    assert part.mix["pairs"].value == pytest.approx(whole.mix["pairs"].value / 4, rel=0.02)
    assert part.totals["training_texts"].value > whole.totals["training_texts"].value


def test_a_model_that_cannot_be_opened_is_said_before_the_corpus_is_read(corpus, monkeypatch, tmp_path):
    monkeypatch.setattr(sample_module, "iter_rows", lambda *_: pytest.fail("rows were read"))
    with pytest.raises(RecipeError, match="colour"):
        plan(corpus, scripted(engine_options={"colour": "red"}), progress=False)
    with pytest.raises(IPTError, match="nowhere"):
        plan(corpus, scripted(), tokenizer=str(tmp_path / "nowhere"), progress=False)


def test_an_input_that_cannot_be_read_is_said_before_the_model_is_loaded(corpus, monkeypatch, tmp_path):
    monkeypatch.setattr(Synthesizer, "open", lambda self: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match="nowhere"):
        plan(str(tmp_path / "nowhere.jsonl"), scripted(), progress=False)
    with pytest.raises(RecipeError, match="sample=1"):
        plan(corpus, scripted(), sample=1, progress=False)


def test_the_command_writes_what_it_prints(corpus, tmp_path, capsys):
    file = tmp_path / "plan.json"
    options = ["--engine", "scripted", "--sample", "20", "--mix-raw", "1", "--devices", "8", "--json", str(file)]
    assert main(["plan", corpus, *options]) == 0
    said = capsys.readouterr().out
    written = json.loads(file.read_text())
    for name in ("pairs", "output_tokens", "training_tokens"):
        assert f"{written['totals'][name]['value']:,.0f}" in said
        assert f"{written['totals'][name]['high']:,.0f}" in said
    assert "300 texts (counted)" in said
    assert written["mix"]["other data"]["value"] == written["totals"]["training_tokens"]["value"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--sample", "3"], "at least two chains of 2"),
        (["--devices", "0"], "devices=0"),
        (["--mix-raw", "-1"], "mix_raw=-1.0"),
        (["--texts", "0"], "texts=0"),
        (["--fraction", "0"], "fraction=0.0"),
        (["--text-column", "words"], "no column 'words'"),
    ],
)
def test_what_cannot_be_planned_is_one_line(corpus, capsys, options, says):
    assert main(["plan", corpus, "--engine", "scripted", *options]) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert says in line


@pytest.mark.parametrize("name", ["nowhere/plan.json", "."])
def test_a_file_that_cannot_be_written_is_said_before_the_model_is_loaded(corpus, tmp_path, capsys, name):
    file = tmp_path / name
    model = ["--model", str(tmp_path / "none"), "--engine", "transformers"]  # would be refused when it is loaded
    assert main(["plan", corpus, *model, "--json", str(file)]) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert f"{file} cannot be written; expected a file in a folder that is there" in line
    assert not list(tmp_path.iterdir())


def numbers(stretches):
    return [int(row["id"]) for stretch in stretches for row in stretch]


def rows_file(folder, count, name="rows.jsonl"):
    file = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": ["x"] * count, "id": [str(n) for n in range(count)]}), file)
    else:
        file.write_text("".join(json.dumps({"text": "x", "id": str(n)}) + "\n" for n in range(count)))
    return str(file)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_sample_is_made_of_stretches_from_all_over_the_input(tmp_path, name):
    file = rows_file(tmp_path, 1001, name)
    drawn = draw_sample(file, "text", rows=60, stretch=3, seed=1)
    assert drawn.total == 1001
    assert ("counted" in drawn.said[0]) == (name == "rows.jsonl")  # a Parquet file knows
    assert len(drawn.stretches) == 20
    for stretch in drawn.stretches:
        first = int(stretch[0]["id"])
        assert first % 3 == 0
        assert numbers([stretch]) == list(range(first, min(first + 3, 1001)))
    found = numbers(drawn.stretches)
    assert found == sorted(set(found))
    assert found[0] < 200
    assert found[-1] > 800
    assert numbers(draw_sample(file, "text", rows=60, stretch=3, seed=1).stretches) == found
    assert numbers(draw_sample(file, "text", rows=60, stretch=3, seed=2).stretches) != found


def test_every_stretch_has_the_same_chance():
    rows = [{"id": str(n)} for n in range(30)]
    counted, known = Counter(), Counter()
    for seed in range(300):
        draw = random.Random(seed)
        counted.update(numbers(_drawn_from(rows, 3, 2, draw)[0]))
        known.update(numbers(_taken_at(rows, _spread(30, 3, 2, draw), 2)[0]))
    for drawn in (counted, known):
        assert set(drawn) == set(range(30))
        assert all(35 <= drawn[n] <= 90 for n in range(30))  # 60 are expected of each


def test_an_input_smaller_than_the_sample_is_taken_whole(tmp_path):
    drawn = draw_sample(rows_file(tmp_path, 7), "text", rows=64, stretch=2)
    assert numbers(drawn.stretches) == list(range(7))


def test_a_number_that_the_user_gives_is_believed_unless_the_input_ends_before(tmp_path):
    file = rows_file(tmp_path, 100)
    assert max(numbers(draw_sample(file, "text", rows=8, stretch=2, total=20).stretches)) < 20
    drawn = draw_sample(file, "text", rows=40, stretch=2, total=400)
    assert drawn.total == 100
    assert "counted: not 400" in drawn.said[0]
    with pytest.raises(InputError, match="100 rows"):
        draw_sample(file, "text", rows=4, stretch=2, total=10**5, seed=1)


def test_of_a_large_input_the_first_rows_of_its_files_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_module, "READ_ROWS", 80)
    for file in range(40):
        table = pa.table({"text": ["x"] * 50, "id": [str(file * 50 + n) for n in range(50)]})
        pq.write_table(table, tmp_path / f"part-{file:02d}.parquet")
    drawn = draw_sample(str(tmp_path / "*.parquet"), "text", rows=40, stretch=2)
    assert drawn.total == 2000
    assert "80 rows" in drawn.said[1]
    assert all(n % 50 < 5 for n in numbers(drawn.stretches))
    assert len({n // 50 for n in numbers(drawn.stretches)}) > 8


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 5)), min_size=2, max_size=30),
    st.integers(0, 10_000),
)
def test_totals_are_in_proportion_and_inside_their_intervals(parts, unseen):
    sums, rows = [float(part) for part, _ in parts], [size for _, size in parts]
    total = sum(rows) + unseen
    estimate = estimate_totals({"x": sums}, rows, total)["x"]
    assert estimate.value == pytest.approx(sum(sums) / sum(rows) * total)
    assert 0 <= estimate.low <= estimate.value + 1e-6
    assert estimate.high >= estimate.value * (1 - 1e-9) - 1e-6
    if not unseen:
        assert estimate.low == estimate.high
    assert estimate == estimate_totals({"x": sums}, rows, total)["x"]


class Steady(ScriptedEngine):
    """Works on `max_requests` at once, each at ten tokens a second, by a clock of its own."""

    def __init__(self, clock, max_requests):
        super().__init__(max_requests=max_requests)
        self.clock, self.ends = clock, {}

    def submit(self, request_id, request):
        self.ends[request_id] = self.clock[0] + request.max_tokens / 10
        super().submit(request_id, request)

    def step(self):
        if not self.ends:
            return []
        first = min(self.ends, key=self.ends.get)
        self.clock[0] = self.ends.pop(first)
        return [(first, Completion([5] * self._pending.pop(first).max_tokens, "stop"))]


@pytest.mark.parametrize(("chains", "full_share"), [(200, True), (20, True), (4, False)])
def test_the_speed_is_that_of_the_full_engine(monkeypatch, chains, full_share):
    clock = [100.0]
    monkeypatch.setattr("ipt_datasets.corpus.stopwatch.time.monotonic", lambda: clock[0])
    watch = Stopwatch(Steady(clock, 8))
    draw = random.Random(chains)
    left = iter(range(chains))
    under_way = [number for number, _ in zip(left, range(8), strict=False)]
    for number in under_way:
        watch.submit(number, Request([], draw.randint(50, 400)))
    while finished := watch.step():
        assert len(finished) == 1
        if (number := next(left, None)) is not None:
            watch.submit(number, Request([], draw.randint(50, 400)))
    speed, share = watch.speed()
    whole = sum(span.completion_tokens for span in watch.spans) / watch.seconds
    if full_share:
        assert speed == pytest.approx(80, rel=0.01)  # eight at ten a second
        assert whole < speed
        assert 0.2 <= share < 1
    else:
        assert (speed, share) == (whole, 1.0)


def test_an_engine_that_did_nothing_has_no_speed():
    assert Stopwatch(ScriptedEngine()).speed() == (0.0, 1.0)


def test_an_input_of_nothing_but_empty_texts_costs_nothing(tmp_path):
    file = tmp_path / "empty.jsonl"
    file.write_text(json.dumps({"text": ""}) + "\n" + json.dumps({"text": " "}) + "\n")
    made = plan(str(file), scripted(), progress=False)
    assert made.totals["hours"].value == made.totals["pairs"].value == 0


def test_nothing_of_the_sample_is_left_in_the_synthesizer(corpus):
    with scripted() as synthesizer:
        engine, _ = synthesizer.open()
        plan(corpus, synthesizer, sample=8, progress=False)
        assert synthesizer.engine is engine
