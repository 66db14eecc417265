"""The errors a user can meet; each message says what was given, what was expected and what to do."""


def one_line(error: BaseException) -> str:
    """Give what an exception says as one line of bounded length, its type where it says nothing."""
    said = " ".join(str(error).split())
    return (said if len(said) <= 400 else f"{said[:400]}...") or type(error).__name__


class IPTError(Exception):
    """Anything that a user can cause or mend; the command line prints its message as one line."""


class InputError(IPTError):
    """The input cannot be read or lacks what was asked of it: a file, a split, a column."""


class RecipeError(IPTError, ValueError):
    """A setting is out of range, or settings contradict each other."""


class EngineError(IPTError, RuntimeError):
    """An engine cannot be built, or died; requests that it finished before are not lost."""


class BudgetSpent(IPTError):
    """A run has used up what it was given and stopped in good order; its output is not whole, `resume` goes on."""


class OutputError(IPTError):
    """The output folder is in use, not empty, or belongs to another recipe."""
