"""The server engine against a real `vllm serve` on the CPU: the rows are those of vLLM in this process."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import httpx2
import pytest

from ipt_datasets import Synthesizer
from ipt_datasets.errors import EngineError
from ipt_datasets.synthesis.engines import Request
from ipt_datasets.synthesis.engines.device import cpu_has_bfloat16
from ipt_datasets.synthesis.engines.server import ServerEngine
from ipt_datasets.synthesis.engines.wire import Form

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow

TEXTS = [
    "The Dead Sea is a salt lake between Jordan and Israel. Its surface lies about 430 metres below sea level, which "
    "makes its shores the lowest land on Earth. The water is almost ten times as salty as the ocean.",
    "Basalt is a dark volcanic rock that forms when lava rich in iron and magnesium cools quickly. Most of the floor "
    "of the oceans consists of it.",
    "Saffron is a spice made from the dried stigmas of a crocus. Each flower bears only three of them, and they are "
    "picked by hand in the early morning.",
]
LENGTH = 1024


def synthesizer_of(engine, **options):
    return Synthesizer(model="smol", engine=engine, shots=2, max_new_tokens=80, max_model_len=LENGTH, **options)


@pytest.fixture(scope="module")
def expected(smol):
    """The rows of vLLM in this process; it goes before the server comes, for the sake of memory.

    One request at a time, there and here: in bfloat16 a batch of another shape rounds differently.
    """
    with synthesizer_of("vllm", engine_options={"max_num_seqs": 1, "kv_cache_memory_bytes": 2**29}) as synthesizer:
        return list(synthesizer.synthesize(TEXTS))


def test_a_request_means_to_the_server_what_it_means_in_this_process():
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    request = Request([1, 5, 6], 9, 0.0, 0.9, 1.0, 0.3, 0.4, stop=("x",))
    asked = CompletionRequest(**Form("smol").body(request, request.prompt, [1, 2]))
    assert not asked.model_extra  # it knows all that is sent
    others = {"temperature": 0.2, "top_p": 0.5, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2}  # of the server
    params = asked.to_sampling_params(asked.max_tokens, others)
    assert (params.max_tokens, params.temperature, params.seed) == (9, 0.0, None)
    assert (params.repetition_penalty, params.frequency_penalty, params.presence_penalty) == (1.0, 0.3, 0.4)
    assert (params.stop, params.stop_token_ids, params.skip_special_tokens) == (["x"], [1, 2], False)
    hot = Request([1, 5, 6], 9, 0.7, 0.9, seed=2**63 + 5)
    asked = CompletionRequest(**Form("smol").body(hot, hot.prompt, [1, 2]))
    params = asked.to_sampling_params(asked.max_tokens, others)
    assert (params.temperature, params.top_p, params.min_p, params.seed) == (0.7, 0.9, 0.0, 5)
    assert params.top_k <= 0


@pytest.fixture(scope="module")
def server(smol, expected, tmp_path_factory):
    from ipt_datasets.synthesis.engines.vllm import ENVIRONMENT

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    # What `vllm serve` runs; the command itself asks for a package of that name, which a CPU build may not have.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(smol)]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--max-model-len",
        str(LENGTH),
        "--max-num-seqs",
        "1",
        "--enforce-eager",
    ]
    command += [] if cpu_has_bfloat16() else ["--dtype", "float32"]  # as in this process
    command += ["--kv-cache-memory-bytes", str(2**29), "--no-enable-chunked-prefill", "--enable-prompt-tokens-details"]
    with log.open("w") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, env={**os.environ, **ENVIRONMENT}, start_new_session=True
        )
    try:
        while process.poll() is None and not _is_healthy(port):
            time.sleep(1)
        assert process.poll() is None, log.read_text()[-3000:]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_healthy(port):
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx2.TransportError:
        return False


def test_rows_are_those_of_vllm_in_this_process(server, expected):
    with synthesizer_of("server", servers=[server]) as synthesizer:
        rows = list(synthesizer.synthesize(TEXTS))
        [form] = synthesizer.engine._forms.values()
        assert (form.takes_ids, form.takes_extras, form.adds_bos) == (True, True, False)
    assert rows == expected
    assert sum(len(shot.pairs) for row in rows for shot in row.shots) > 0


@pytest.mark.parametrize("takes_extras", [True, False])
def test_prompts_as_strings_give_the_same_pairs(server, expected, takes_extras):
    with synthesizer_of("server", servers=[server]) as synthesizer:
        engine, _ = synthesizer.open()
        for endpoint, form in engine._forms.items():
            engine._forms[endpoint] = replace(form, takes_ids=False, takes_extras=takes_extras)
        rows = list(synthesizer.synthesize(TEXTS))
    assert [[shot.pairs for shot in row.shots] for row in rows] == [[s.pairs for s in row.shots] for row in expected]
    assert [[shot.prompt_tokens for shot in row.shots] for row in rows] == [
        [shot.prompt_tokens for shot in row.shots] for row in expected
    ]


def test_the_same_ids_end_and_refuse_a_request(server, smol):
    engine = ServerEngine(smol, [server], name="smol", max_model_len=LENGTH)
    tokenizer = engine.tokenizer
    prompt = [tokenizer.bos_id, *tokenizer.encode("<CON> " + " ".join(TEXTS * 3) + " </CON>\n\n")]  # over a block
    engine.submit(1, Request(prompt, 5))
    engine.submit(2, Request([*prompt, 49152], 5))
    engine.submit(3, Request([*prompt, *tokenizer.encode("Yes. ")], 5, stop=("e", "a")))
    done = {}
    while len(done) < 3:
        done |= dict(engine.step())
    assert (done[1].finish_reason, len(done[1].token_ids)) == ("length", 5)
    assert done[2].finish_reason == "error"
    assert "refused the request: HTTP 400" in done[2].error
    engine.submit(1, Request(prompt + done[1].token_ids, 5))
    [(_, completion)] = engine.step()
    assert completion.cached_tokens > 0
    engine.submit(4, Request(prompt, 600))
    engine.abort([4])
    engine.submit(5, Request(prompt, 2))
    assert [number for number, _ in engine.step()] == [5]
    engine.close()


@pytest.mark.parametrize(
    ("model", "max_model_len", "said"),
    [("smol-base", LENGTH, "the recipe's model is 'smol-base'"), ("smol", None, "the recipe wants 4096")],
)
def test_another_model_or_a_longer_one_is_said_at_the_opening(server, smol, smol_base, model, max_model_len, said):
    synthesizer = Synthesizer(model=model, engine="server", servers=[server], max_model_len=max_model_len)
    with pytest.raises(EngineError, match=said):
        synthesizer.open()
