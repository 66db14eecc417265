"""What one run may use: it stops in good order before more, and another run goes on where it stopped."""

import time
from collections.abc import Callable

from ipt_datasets.errors import RecipeError
from ipt_datasets.synthesis.chains import Shot
from ipt_datasets.synthesis.schedule import Job


class Budget:
    """Lets chains begin as long as a budget lasts. Chains that have begun are finished: no completion is thrown away.

    Of tokens, what the chains under way are still expected to write is set aside, so that a run ends near its budget
    and not behind it by all that was under way. Hours count from the making of this object; the chains under way then
    take a little longer. At least one chain begins, so that a run that is started again and again comes to its end.

    Args:
        tokens: that the model may generate in this run; None: any number.
        hours: that this run may take, loading the model included; None: any time.
        first_guess: expected tokens of a completion until some have been seen.

    Attributes:
        spent: what ended the run, in words; "" as long as nothing has.

    Raises:
        RecipeError: a number is out of range.
    """

    def __init__(self, tokens: int | None = None, hours: float | None = None, first_guess: int = 200) -> None:
        if tokens is not None and tokens < 1:
            raise RecipeError(f"budget_tokens={tokens!r}: expected a whole number of at least 1")
        if hours is not None and not hours > 0:
            raise RecipeError(f"budget_hours={hours!r}: expected a number above 0")
        self._tokens, self._hours = tokens, hours
        self._started = time.monotonic()
        self._begun = self._finished = self._wrote = 0  # shots that are, or were, asked for; and their tokens
        self._first_guess = first_guess
        self.spent = ""

    def admits(self, job: Job[list[Shot]]) -> bool:
        """Tell whether a chain may begin; a chain that an earlier run finished always may."""
        asked = job.shots - len(job.known)
        if asked and self._begun:
            self.spent = self.spent or self._why_not(asked)
        if asked and self.spent:
            return False
        self._begun += asked
        return True

    def counting(self, on_shot: Callable[[Shot], None]) -> Callable[[Shot], None]:
        """Give what counts each shot that is written, and passes it on."""

        def counted(shot: Shot) -> None:
            self._finished += 1
            self._wrote += shot.completion_tokens
            on_shot(shot)

        return counted

    def _why_not(self, asked: int) -> str:
        hours = (time.monotonic() - self._started) / 3600
        if self._hours is not None and hours >= self._hours:
            return f"the budget of {self._hours:g} hours is used up"
        a_shot = (self._wrote + self._first_guess) / (self._finished + 1)
        still = (self._begun - self._finished + asked) * a_shot
        if self._tokens is not None and self._wrote + still > self._tokens:
            return f"the budget of {self._tokens:,} generated tokens is used up, as far as whole chains go"
        return ""
