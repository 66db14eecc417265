"""The options of multiple choice as sets write them: with labels or without, the right one named in several ways."""

import re
from collections.abc import Sequence

_LABEL = re.compile(r"\A\s*\(?([A-Za-z])\s*[).:]\s*")


def without_labels(options: list[str]) -> tuple[list[str], bool]:
    """Take the labels off options that have them, A, B, C and so on; tells whether they had."""
    found = [_LABEL.match(option) for option in options]
    names = "".join(match[1].lower() for match in found if match)
    if not options or len(names) < len(options) or not "abcdefghijklmnopqrstuvwxyz".startswith(names):
        return options, False
    return [option[match.end() :] for option, match in zip(options, found, strict=True) if match], True


def chosen_option(answer: str, options: Sequence[str], labels: Sequence[str] | None, were_labelled: bool) -> str | None:
    """Find the option that an answer names, by its text, its letter or label, or its number from 0; None: no option.

    Args:
        answer: as the set gives it.
        options: without labels.
        labels: where the set names options otherwise than A, B, C.
        were_labelled: whether the options had labels in front, as the answer then has.
    """
    said = (_LABEL.sub("", answer) or answer) if were_labelled else answer
    if said in options:
        return said
    names = [str(label).strip().lower() for label in labels] if labels else [chr(ord("a") + at) for at in range(26)]
    letter = answer.strip("().: ").lower()
    if letter in names[: len(options)]:
        return options[names.index(letter)]
    if letter.isdecimal() and int(letter) < len(options):
        return options[int(letter)]
    return next((option for option in options if option.strip(" .").lower() == said.strip(" .").lower()), None)
