"""Real vLLM on the CPU with the embedded model: one engine for the whole module, since loading it takes a while."""

import os
import signal
import subprocess
import sys
from itertools import pairwise

import psutil
import pytest

from ipt_datasets import Synthesizer
from ipt_datasets.errors import EngineError
from ipt_datasets.synthesis.engines import Request
from ipt_datasets.synthesis.markup import CHAT
from ipt_datasets.synthesis.prompts import Prompter

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow

TEXTS = [
    "The Dead Sea is a salt lake between Jordan and Israel. Its surface lies about 430 metres below sea level, which "
    "makes its shores the lowest land on Earth. The water is almost ten times as salty as the ocean, so that no fish "
    "live in it and bathers float without effort.",
    "Basalt is a dark volcanic rock that forms when lava rich in iron and magnesium cools quickly. Most of the floor "
    "of the oceans consists of it. Where a thick flow shrinks as it cools, the rock splits into six-sided columns.",
    "Saffron is a spice made from the dried stigmas of a crocus. Each flower bears only three of them, and they are "
    "picked by hand in the early morning. Iran grows most of the saffron that is sold.",
]


@pytest.fixture(scope="module")
def engine(smol_base):
    from ipt_datasets.synthesis.engines.vllm import VLLMEngine

    engine = VLLMEngine(smol_base, max_model_len=2048, max_num_seqs=8)
    yield engine
    engine.close()


def run(engine, requests):
    for number, request in requests.items():
        engine.submit(number, request)
    done = {}
    while len(done) < len(requests):
        done |= dict(engine.step())
    return done


def question(engine, text):
    tokenizer = engine.tokenizer
    bos, eos = [tokenizer.bos_id], [tokenizer.eos_id]
    asked = [*bos, *tokenizer.encode(f"user\n{text}"), *eos, *tokenizer.encode("\n")]
    return [*asked, *bos, *tokenizer.encode("assistant\n")]


def test_the_precision_is_the_one_that_this_cpu_is_faster_in(engine):
    """What /proc/cpuinfo says, not what our own function does."""
    with open("/proc/cpuinfo") as file:
        features = file.read()
    has_bfloat16 = any(name in features for name in ("avx512_bf16", "amx_bf16", " bf16"))
    assert str(engine._engine.vllm_config.model_config.dtype) == ("torch.bfloat16" if has_bfloat16 else "torch.float32")


def test_shot_after_shot_hits_the_prefix_cache(engine):
    """The prompt of shot r+1 begins with what the engine has seen: its own counters say how much it did not compute."""
    block = engine.kv_tokens // engine._engine.vllm_config.cache_config.num_gpu_blocks
    prompts = []
    submit = engine.submit

    def noting(number, request):
        prompts.append(request.prompt)
        submit(number, request)

    engine.submit = noting
    try:
        engine.reset_prefix_cache()
        before = engine.counters()
        synthesizer = Synthesizer(model="any/model", engine=engine, markup="chat", shots=3, max_new_tokens=120)
        rows = list(synthesizer.synthesize(TEXTS))
    finally:
        del engine.submit
    shots = [row.shots[0] for row in rows]
    assert [row.status for row in rows] == ["ok"] * 3
    assert [shot.follows for shot in shots] == [False, True, True]
    hits = engine.counters()["prefix_cache_hits"] - before["prefix_cache_hits"]
    queries = engine.counters()["prefix_cache_queries"] - before["prefix_cache_queries"]
    assert queries == sum(map(len, prompts)) == sum(shot.prompt_tokens for shot in shots)
    for earlier, later in pairwise(prompts):
        assert later[: len(earlier)] == earlier  # exactly the ids that were sent
    assert hits >= sum(len(prompt) // block * block for prompt in prompts[:-1])


def test_a_prompt_that_goes_on_from_an_earlier_one_finds_its_blocks(engine):
    block = engine._engine.vllm_config.cache_config.block_size
    counting = question(engine, "Count to 1000.") + engine.tokenizer.encode("1, 2, 3," * 1000)
    first = Request(counting[: block - 8], 16)
    earlier = first.prompt + run(engine, {1: first})[1].token_ids
    before = engine.counters()
    second = Request(earlier + question(engine, TEXTS[1]), 4)
    completion = run(engine, {1: second})[1]
    counted = {name: value - before[name] for name, value in engine.counters().items()}
    read = len(earlier) - 1  # the id generated last was never read
    assert read // block > len(first.prompt) // block  # so that generated ids count too
    assert completion.cached_tokens == read // block * block
    assert counted["prefix_cache_queries"] == counted["prompt_tokens"] == len(second.prompt)
    assert counted["prefix_cache_hits"] == completion.cached_tokens
    assert counted["generation_tokens"] == len(completion.token_ids)


def test_requests_are_added_while_others_run(engine):
    prompt = question(engine, "Tell a long story about the sea.")
    engine.submit(1, Request(prompt, 200))
    engine.submit(2, Request(prompt, 4))
    [(first, _)] = engine.step()
    assert first == 2
    engine.submit(3, Request(prompt, 4))
    finished = []
    while len(finished) < 2:
        finished += engine.step()
    assert {number for number, _ in finished} == {1, 3}


def test_generated_ids_come_back_whole(engine):
    done = run(engine, {1: Request(question(engine, "Say yes."), 60), 2: Request(question(engine, "Count to 100."), 5)})
    assert done[1].finish_reason == "stop"
    assert done[1].token_ids[-1] == engine.tokenizer.eos_id
    assert done[2].finish_reason == "length"
    assert len(done[2].token_ids) == 5


@pytest.mark.parametrize(("over", "tokens"), [(-1, 4), (0, 4), (1, 3)])
def test_max_tokens_is_capped_by_the_length_left(engine, over, tokens):
    prompt = (question(engine, "Count to 1000.") + engine.tokenizer.encode("1, 2, 3," * 1000))[: 2048 - 4 + over]
    [completion] = run(engine, {1: Request(prompt, 4)}).values()
    assert len(completion.token_ids) == tokens
    assert completion.finish_reason == "length"


@pytest.mark.parametrize("prompt", [[], [5] * 2048, [5] * 3000, [5, 49152], [5, -1]])
def test_a_refused_request_is_an_error_of_its_own(engine, prompt):
    done = run(engine, {1: Request(prompt, 4), 2: Request(question(engine, "Say yes."), 4)})
    assert (done[1].finish_reason, done[1].token_ids) == ("error", [])
    assert "refused" in done[1].error
    assert "\n" not in done[1].error
    assert done[2].finish_reason == "length"


def test_sampling_has_a_stream_for_each_seed(engine):
    prompt = question(engine, "Name an animal.")
    seeds = [0, 0, -1, -1, 2**64 - 2, 2**64 - 2]
    requests = {number: Request(prompt, 12, temperature=1.0, seed=seed) for number, seed in enumerate(seeds)}
    once, again = run(engine, requests), run(engine, requests)
    ids = [once[number].token_ids for number in range(6)]
    assert ids == [again[number].token_ids for number in range(6)]
    assert ids[::2] == ids[1::2]
    assert len({tuple(each) for each in ids}) == 3


def test_stop_strings_end_a_request(engine):
    asked = question(engine, "Count from 1 to 20.")
    [free] = run(engine, {1: Request(asked, 40)}).values()
    stop = engine.tokenizer.decode(free.token_ids[:12])[-4:]  # what it writes depends on the machine's precision
    [completion] = run(engine, {1: Request(asked, 40, stop=(stop,))}).values()
    assert completion.finish_reason == "stop"
    assert stop in engine.tokenizer.decode(completion.token_ids)
    assert len(completion.token_ids) < len(free.token_ids)


def test_abort_forgets_requests(engine):
    engine.submit(1, Request(question(engine, "Tell a long story."), 500))
    engine.abort([1])
    assert engine.step() == []
    [completion] = run(engine, {1: Request(question(engine, "Say yes."), 3)}).values()
    assert len(completion.token_ids) == 3


def test_greedy_agrees_with_transformers(engine, smol_base):
    from ipt_datasets.synthesis.engines.transformers import TransformersEngine

    other = TransformersEngine(smol_base, max_model_len=2048)
    prompter = Prompter(engine.tokenizer, CHAT)
    prompt, _ = prompter.prompt([], prompter.encode_text(TEXTS[0]), 1900)
    ours = run(engine, {1: Request(prompt, 12)})[1].token_ids
    theirs = run(other, {1: Request(prompt, 12)})[1].token_ids
    other.close()
    assert ours[:6] == theirs[:6]  # later tokens may differ: the kernels round differently in bfloat16


def test_options_reach_the_engine(engine):
    assert engine.max_requests == 8 + 2  # two wait
    assert engine.max_model_len == 2048
    assert engine.kv_tokens > 2048


def test_an_engine_whose_process_is_killed_says_so(smol_base):
    """A second engine beside the module's own; the kernel kills like this where memory runs out."""
    from ipt_datasets.synthesis.engines.vllm import VLLMEngine

    engine = VLLMEngine(
        smol_base, max_model_len=1024, block_size=32, load_format="dummy", hf_overrides={"num_hidden_layers": 2}
    )
    assert engine._engine.vllm_config.cache_config.block_size == 32
    engine.submit(1, Request([5] * 8, 4))
    assert [number for number, _ in engine.step()] == [1]
    engine.submit(2, Request([5] * 8, 900))
    os.kill(engine._engine.engine_core.resources.engine_manager.processes[0].pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(EngineError, match="died"):
            engine.step()
    engine.abort([2])
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="died"):
        engine.submit(3, Request([5], 1))


def test_what_vllm_started_ends_with_a_process_that_is_killed(smol_base, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from ipt_datasets.synthesis.engines.vllm import VLLMEngine\n"
        "if __name__ == '__main__':\n"
        f"    engine = VLLMEngine({str(smol_base)!r}, max_model_len=1024, load_format='dummy', \n"
        "        kv_cache_memory_bytes=2**27, hf_overrides={'num_hidden_layers': 2})\n"
        "    print(engine._engine.engine_core.resources.engine_manager.processes[0].pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as killed:
        engine = psutil.Process(int(killed.stdout.readline()))
        of_engine = [engine, *engine.children(recursive=True)]
        killed.kill()
    gone, left = psutil.wait_procs(of_engine, timeout=60)
    assert not left
    assert len(gone) > 1


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("./nowhere", {}, "cannot load './nowhere'"),
        (None, {"colour": "red"}, "colour"),
        (None, {"max_model_len": 8193}, "from 2 to 8192 tokens"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(smol_base, model, options, said):
    from ipt_datasets.synthesis.engines.vllm import VLLMEngine

    with pytest.raises(EngineError) as raised:
        VLLMEngine(model or smol_base, **options)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
