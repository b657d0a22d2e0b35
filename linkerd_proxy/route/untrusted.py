"""Regular expressions from somebody who is not the operator: with RE2, or only those that can't be made to hang."""

from __future__ import annotations

import re
from collections import Counter
from importlib import import_module
from typing import Protocol, cast

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Compiled", "compile_untrusted"]


class Compiled(Protocol):
    """A compiled pattern, of Python's engine or of another."""

    def fullmatch(self, string: str, /) -> object:
        """Return something true if the whole text matches, or None."""
        ...


def compile_untrusted(pattern: str) -> Compiled:
    """Compile a pattern so that no text can make it run for long.

    With the package ``google-re2`` it runs in linear time, whatever it is. Without, a pattern whose repetitions hold
    repetitions, alternatives or options, as ``(a+)+b``, ``(a|a)*b`` or ``(a?a)*b``, or that has many of them, or that
    refers back to a group, is refused.

    Raises:
        InvalidConfiguration: if the pattern is refused or can't be read.
    """
    try:
        engine = import_module("re2")
    except ModuleNotFoundError:
        if reason := _danger(pattern):
            raise InvalidConfiguration(
                f"the pattern {pattern!r} {reason}, and may run for ever: write another, or install google-re2"
            ) from None
        return re.compile(pattern)
    try:
        return cast("Compiled", engine.compile(pattern))
    except Exception as error:  # the engine has an exception of its own
        raise InvalidConfiguration(f"RE2 can't read the pattern {pattern!r}: {error}; correct it") from None


_MOST = 8  # repetitions and options in one pattern; own figure: each multiplies the ways to try

_TOKEN = re.compile(
    r"""(?xs)
    (?P<back> \\[1-9] | \(\?P= )
    | \\.                                     # what is escaped
    | \[\^?\]?(?:\\.|[^\]\\])*\]              # a class of characters
    | (?P<open> \((?:\?(?:P<\w+>|[a-zA-Z-]*:|[=!]|<[=!]))? )
    | (?P<close> \) )
    | (?P<repeat> (?:[*+] | \{\d*,?\d*\})[?+]? )
    | (?P<option> \?\?? )                     # it repeats nothing, but many of them can be left out in many ways
    | (?P<either> \| )
    | .
    """
)


def _danger(pattern: str) -> str:
    """Return what makes a pattern dangerous, or nothing. It may err on the side of caution."""
    heaps = [False]  # for each open group, whether something inside repeats, has alternatives or is optional
    closed = False  # whether the group that has just ended did
    counts = Counter[str | None]()
    for token in _TOKEN.finditer(pattern):
        kind = token.lastgroup
        counts[kind] += 1
        if kind == "back":
            return "refers back to a group"
        if kind == "repeat" and closed:
            return "repeats what itself repeats, has alternatives or is optional"
        closed = False
        if kind == "open":
            heaps.append(False)
        elif kind == "close" and len(heaps) > 1:
            closed = heaps.pop()
            heaps[-1] = heaps[-1] or closed
        elif kind in {"repeat", "option", "either"}:
            heaps[-1] = True
    return "repeats or leaves out too many things" if counts["repeat"] + counts["option"] > _MOST else ""
