"""The level of the log, in Linkerd's words: read, shown and changed while the proxy runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["apply_log_level", "level_of", "parse_directives", "parse_log_level", "shown_log_level"]

_ROOT = "linkerd_proxy"
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
_WORDS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warn", logging.ERROR: "error"}


def parse_log_level(text: str) -> int:
    """Return the level of ``info``, or what Linkerd's ``warn,linkerd=info`` says of the proxy itself.

    Raises:
        InvalidConfiguration: if it names no level.
    """
    directives = parse_directives(text)
    return directives.get(_ROOT, directives.get("", logging.WARNING))


def apply_log_level(text: str) -> None:
    """Set the levels of ``info``, or of ``warn,linkerd_proxy.failures=debug``: of the proxy, and of parts of it.

    Parts that the text does not name follow the proxy's level again.

    Raises:
        InvalidConfiguration: if it names no level; then nothing is changed.
    """
    directives = parse_directives(text)
    level = directives.get(_ROOT, directives.get("", logging.WARNING))
    for name in _known():
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger(_ROOT).setLevel(level)
    for name, own in directives.items():
        if name.startswith(f"{_ROOT}."):
            logging.getLogger(name).setLevel(own)


def shown_log_level() -> str:
    """Return the levels as :func:`apply_log_level` takes them."""
    parts = [_word(logging.getLogger(_ROOT).getEffectiveLevel())]
    for name in sorted(_known()):
        level = logging.getLogger(name).level
        if level != logging.NOTSET:
            parts.append(f"{name}={_word(level)}")
    return ",".join(parts)


def _known() -> list[str]:
    return [name for name in logging.Logger.manager.loggerDict if name.startswith(f"{_ROOT}.")]


def _word(level: int) -> str:
    return _WORDS.get(level, "off" if level > logging.CRITICAL else str(level))


def level_of(name: str, directives: Mapping[str, int]) -> int:
    """Return the level that directives give a logger: that of the nearest one above it."""
    while name:
        if name in directives:
            return directives[name]
        name = name.rpartition(".")[0]
    return directives.get("", logging.CRITICAL + 1)


def parse_directives(text: str) -> dict[str, int]:
    """Return the level of each target; the empty one is everything, and Linkerd's own names mean this proxy.

    Raises:
        InvalidConfiguration: if a part names no level.
    """
    found: dict[str, int] = {}
    for part in text.lower().split(","):
        target, equals, name = part.strip().rpartition("=")
        level = int(name) if name.isdecimal() else _LEVELS.get(name)  # a number is one that Python's logging takes
        if level is None:
            raise InvalidConfiguration(f"{text!r} names no log level: give one of {', '.join(_LEVELS)}")
        if equals and target.startswith("linkerd"):
            found[target if target.startswith(f"{_ROOT}.") else _ROOT] = level
        elif not equals:
            found.setdefault("", level)
    return found
