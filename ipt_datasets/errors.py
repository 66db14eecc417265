"""The errors a user can meet; each message says what was given, what was expected and what to do."""


class IPTError(Exception):
    """Anything that a user can cause or mend; the command line prints its message as one line."""


class InputError(IPTError):
    """The input cannot be read or lacks what was asked of it: a file, a split, a column."""


class RecipeError(IPTError, ValueError):
    """A setting is out of range, or settings contradict each other."""


class EngineError(IPTError, RuntimeError):
    """An engine cannot be built, or died; requests that it finished before are not lost."""


class OutputError(IPTError):
    """The output folder is in use, not empty, or belongs to another recipe."""
