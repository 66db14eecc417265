"""Raw tokens per GPU-hour, on a machine where nothing but torch and transformers is installed.

    python tests/benchmarks/gpu.py --model FOLDER --texts FILE --minutes 5 --json gpu.json

FOLDER holds a synthesizer, such as `smol` (`python -c "from ipt_datasets.models.embedded import prepare_smol as p;
print(p())"` names its folder). FILE is JSON lines with a `text`, or one text a line; None: the shipped abstracts.
Measured are that model and one with the shape of Mistral-7B and random weights, each with this package's transformers
engine in the package's schedule: chains of two texts, greedily, for as many minutes as asked after a warm-up.

A model of random weights never ends a completion: it writes `--completion-tokens`, which decides its speed and stands
in the result. The reference's headline is a billion raw tokens in a day of one A100.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # the package lies here, installed or not

try:
    import torch
    import transformers

    from ipt_datasets.synthesis.engines import Completion, Request
    from ipt_datasets.synthesis.engines.transformers import TransformersEngine
    from ipt_datasets.synthesis.schedule import Job, Schedule
    from ipt_datasets.synthesis.tokens import HFTokenizer
except ImportError as error:
    sys.exit(
        f"{error.name or error} is missing: this needs torch and transformers, and the folder ipt_datasets beside tests"
    )

REFERENCE_AN_HOUR = 1e9 / 24
"""Raw tokens that the reference means to read in an hour of one A100."""

WARM_SHARE = 0.2
"""This share of the minutes goes by before anything is counted: the first chains all begin at once."""

MISTRAL_7B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "rms_norm_eps": 1e-5,
}
TINY = {**MISTRAL_7B, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2}


@dataclass
class Finished:
    """What was finished since the counting began."""

    texts: int = 0
    raw_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


def read_texts(file: Path | None) -> list[str]:
    """Read JSON lines with a `text`, or one text a line."""
    file = file or ROOT / "ipt_datasets" / "data" / "demo.jsonl"
    lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
    return [json.loads(line)["text"] for line in lines] if file.suffix == ".jsonl" else lines


def chain(
    texts: list[str], tokenizer: Any, limit: int, args: argparse.Namespace, done: Finished
) -> Generator[Request, Completion, None]:
    """Ask about one text after the other in the paper's markup, keeping whatever was generated."""
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    history: list[int] = []
    longest = args.max_model_len
    penalties = {"frequency_penalty": args.frequency_penalty, "presence_penalty": args.presence_penalty}
    for text in texts:
        raw = len(tokenizer.encode(text))
        asked = [*begin, *tokenizer.encode(f" <CON> {text} </CON>\n\n")[: longest - limit - len(begin)]]
        prompt = history + asked if len(history) + len(asked) + limit <= longest else asked
        completion = yield Request(prompt, limit, **penalties)
        if completion.finish_reason == "error":
            raise SystemExit(f"the engine failed: {completion.error}")
        done.texts += 1
        done.raw_tokens += raw
        done.prompt_tokens += len(prompt)
        done.cached_tokens += completion.cached_tokens
        done.completion_tokens += len(completion.token_ids)
        history = [*prompt, *completion.token_ids]
        if history[-1] != tokenizer.eos_id:
            history.append(tokenizer.eos_id)


def jobs(texts: list[str], tokenizer: Any, args: argparse.Namespace, limit: int, done: Finished) -> Iterator[Job[None]]:
    """Give chains for ever, and stop giving them when nobody asks."""
    endless = cycle(texts)
    while True:
        dealt = [next(endless) for _ in range(args.shots)]
        yield Job(chain(dealt, tokenizer, limit, args, done), 0, args.shots)


def measure(folder: Path, batch_size: int, limit: int, args: argparse.Namespace) -> dict[str, Any]:
    """Let one model read for the minutes asked, and tell how far it came."""
    engine = TransformersEngine(folder, batch_size=batch_size, max_model_len=args.max_model_len, dtype=torch.bfloat16)
    done, began, counted_since = Finished(), time.monotonic(), 0.0
    warm, stop = began + 60 * args.minutes * WARM_SHARE, began + 60 * args.minutes
    schedule = Schedule(engine, 0, first_guess=limit)
    warm_done: Finished | None = None
    running = schedule.run(jobs(read_texts(args.texts), engine.tokenizer, args, limit, done))
    for _ in running:
        now = time.monotonic()
        if warm_done is None and now >= warm:
            warm_done, counted_since = Finished(**vars(done)), now
        if now >= stop and warm_done is not None and done.texts > warm_done.texts:
            break
    seconds = time.monotonic() - counted_since
    before = warm_done or Finished()
    running.close()
    engine.close()
    counted = {name: value - getattr(before, name) for name, value in vars(done).items()}
    an_hour = 3600 * counted["raw_tokens"] / seconds
    free()
    return {
        "batch_size": batch_size,
        "seconds": round(seconds, 1),
        **counted,
        "raw_tokens_an_hour": round(an_hour),
        "of_the_reference": round(an_hour / REFERENCE_AN_HOUR, 3),
    }


def make_random(folder: Path, shape: dict[str, Any], tokenizer: HFTokenizer) -> Path:
    """Write a model of a shape with random weights and a tokenizer."""
    tokenizer.tokenizer.save_pretrained(folder)
    vocabulary = max(32_000, len(tokenizer.tokenizer))
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    config = transformers.MistralConfig(vocab_size=vocabulary, **ids, **shape)
    torch.manual_seed(0)
    with torch.device(device()):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    del model
    free()
    return folder


def device() -> str:
    """Name what models run on."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator else "cpu"


def free() -> None:
    """Give memory back before the next model comes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Measure both models, print a line for each, write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, help="folder of a synthesizer; without it only the random one is measured"
    )
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0, help="for each model and batch size (%(default)s)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64], help="each is measured (%(default)s)")
    parser.add_argument("--shots", type=int, default=2)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--max-new-tokens", type=int, default=400, help="of the given model (%(default)s)")
    parser.add_argument("--frequency-penalty", type=float, default=0.0, help="the package takes 0.2 for smol")
    parser.add_argument("--presence-penalty", type=float, default=0.0, help="the package takes 1.0 for smol")
    parser.add_argument("--completion-tokens", type=int, default=128, help="of the random model (%(default)s)")
    parser.add_argument("--no-random", action="store_true", help="leave out the model with Mistral-7B's shape")
    parser.add_argument("--tiny", action="store_true", help="a tiny random model instead, to try this script on a CPU")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    args = parser.parse_args()
    if args.model is None:
        parser.error("--model FOLDER: its tokenizer is needed, with --no-random or without")
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else device(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "shots": args.shots,
        "frequency_penalty": args.frequency_penalty,
        "presence_penalty": args.presence_penalty,
        "reference_an_hour": round(REFERENCE_AN_HOUR),
    }
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        models = [(args.model.name, args.model, args.max_new_tokens)]
        if not args.no_random:
            tokenizer = HFTokenizer.from_pretrained(args.model)
            made = make_random(Path(name), TINY if args.tiny else MISTRAL_7B, tokenizer)
            models.append(("tiny" if args.tiny else "Mistral-7B's shape, random weights", made, args.completion_tokens))
        for called, folder, limit in models:
            for batch_size in args.batch_sizes:
                results.append(
                    {"model": called, "most_completion_tokens": limit, **measure(folder, batch_size, limit, args)}
                )
                args.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n", "utf-8")
                print(json.dumps(results[-1]), flush=True)


if __name__ == "__main__":
    main()
