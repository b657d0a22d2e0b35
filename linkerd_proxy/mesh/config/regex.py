"""Notice regular expressions that a hostile text can make run for ever."""

from __future__ import annotations

import re

__all__ = ["nests_repetitions"]

_REPEAT = re.compile(r"[*+]|\{(\d*),(\d*)\}")


def nests_repetitions(pattern: str) -> bool:
    """Whether something that repeats without end is repeated without end itself, as in ``(a+)+``.

    Such a pattern may try as many ways to match as there are subsets of a text's letters. This looks at the pattern
    alone, and so also finds some that do no harm.
    """
    repeats_inside = [False]  # for each open group: whether something in it repeats
    closed = False  # whether a group that repeats inside has just ended
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            at += 2
            closed = False
            continue
        if letter == "[":
            at = _end_of_class(pattern, at)
            closed = False
            continue
        if letter == "(":
            repeats_inside.append(False)
            closed = False
        elif letter == ")" and len(repeats_inside) > 1:
            closed = repeats_inside.pop()
            repeats_inside[-1] |= closed
        elif (found := _REPEAT.match(pattern, at)) is not None:
            if closed and not found[2]:
                return True
            repeats_inside[-1] |= not found[2]
            at = found.end()
            closed = False
            continue
        else:
            closed = False
        at += 1
    return False


def _end_of_class(pattern: str, at: int) -> int:
    """Return where a ``[...]`` ends that begins here; a ``]`` at its beginning is a letter."""
    at += 1
    if pattern.startswith("^", at):
        at += 1
    if pattern.startswith("]", at):
        at += 1
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1
