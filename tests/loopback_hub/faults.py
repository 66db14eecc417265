"""Faults on demand: what shall go wrong at which request."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass
class Fault:
    """Something that goes wrong at some requests.

    Attributes:
        match: a regular expression, searched in "METHOD /path?query".
        status: answer with this status, and do nothing.
        drop: close the connection without an answer, and do nothing.
        lose: do the work, then close the connection without an answer.
        delay: seconds to wait before anything else.
        call: called before the work, e.g. to kill the client.
        call_after: called when the work is done and the answer is not yet sent.
        change: makes another body of the answer's, e.g. a damaged one.
        headers: of the answer with `status`.
        body: of the answer with `status`.
        skip: so many matching requests pass before the first fault.
        times: so many requests fail.
    """

    match: str
    status: int = 0
    drop: bool = False
    lose: bool = False
    delay: float = 0.0
    call: Callable[[], None] | None = None
    call_after: Callable[[], None] | None = None
    change: Callable[[bytes], bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "injected fault"}'
    skip: int = 0
    times: int = 1
    seen: int = 0

    def strikes(self, request: str) -> bool:
        """Tell whether this request fails; counts it if it matches."""
        if not re.search(self.match, request):
            return False
        self.seen += 1
        return self.skip < self.seen <= self.skip + self.times
