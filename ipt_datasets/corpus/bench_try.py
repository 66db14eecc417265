"""One run of one try of `ipt bench`, in a process of its own: `python -m ipt_datasets.corpus.bench_try ASKED MEASURED`.

ASKED is a JSON file with `settings`, the arguments of a `Synthesizer`, and `texts`. MEASURED is written: what
`measure` gives, or `error`.
"""

import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipt_datasets.corpus.stopwatch import Stopwatch, warm_up
from ipt_datasets.errors import IPTError
from ipt_datasets.synthesis.synthesizer import Synthesizer


def measure(settings: Mapping[str, Any], texts: Sequence[str | None]) -> dict[str, float]:
    """Write pairs about texts and say how long it took and what was read and written, in tokens; loading is apart.

    Raises:
        IPTError: the model cannot be run so.
    """
    loading = time.monotonic()
    with Synthesizer(**settings) as synthesizer:
        engine, prompter = synthesizer.open()
        loading = time.monotonic() - loading
        warm_up(engine, prompter)
        synthesizer.engine = watch = Stopwatch(engine)
        begun = time.monotonic()
        rows = list(synthesizer.synthesize(texts))
        return {
            "seconds": time.monotonic() - begun,
            "loading_seconds": loading,
            "texts": len(texts),
            "pairs": sum(len(shot.pairs) for row in rows for shot in row.shots),
            "errors": sum(shot.finish_reason == "error" for row in rows for shot in row.shots),
            "raw_tokens": sum(len(prompter.encode_text(text)) for text in texts if text),
            "prompt_tokens": sum(span.prompt_tokens for span in watch.spans),
            "cached_tokens": sum(span.cached_tokens for span in watch.spans),
            "output_tokens": sum(span.completion_tokens for span in watch.spans),
        }


def main() -> None:
    """Measure what a file asks for."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the engine's processes end too
    asked = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    try:
        found: dict[str, Any] = measure(asked["settings"], asked["texts"])
    except IPTError as error:
        found = {"error": " ".join(str(error).split())}
    Path(sys.argv[2]).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
