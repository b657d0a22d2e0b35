"""Types of the command's options: addresses, durations with a unit, log levels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from linkerd_proxy.address import parse_address
from linkerd_proxy.duration import parse_duration
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.log_level import parse_log_level

__all__ = ["ADDRESS", "DURATION", "LOG_LEVEL", "SECONDS"]

if TYPE_CHECKING:
    _StrParam = click.ParamType[str]
    _FloatParam = click.ParamType[float]
    _IntParam = click.ParamType[int]
else:  # generic from click 8.5 on
    _StrParam = _FloatParam = _IntParam = click.ParamType


class _AddressType(_StrParam):
    """Checks an address, and leaves it as it was written."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parse_address(value)
        except InvalidConfiguration as error:
            self.fail(str(error), param, ctx)
        return value


class _DurationType(_FloatParam):
    """Seconds, written with a unit."""

    name = "duration"

    def __init__(self, *, bare: bool = False) -> None:
        self._bare = bare  # whether a number without a unit means seconds

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not isinstance(value, str):
            return value
        try:
            if self._bare and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
                value += "s"
            return parse_duration(value)
        except InvalidConfiguration as error:
            self.fail(str(error), param, ctx)


class _LogLevelType(_IntParam):
    """A level of logging."""

    name = "level"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if not isinstance(value, str):
            return value
        try:
            return parse_log_level(value)
        except InvalidConfiguration as error:
            self.fail(str(error), param, ctx)


ADDRESS = _AddressType()
"""``host:port``, ``:port``, a port, or ``unix:/path``."""
DURATION = _DurationType()
"""A number with a unit."""
SECONDS = _DurationType(bare=True)
"""A number with a unit, or of seconds."""
LOG_LEVEL = _LogLevelType()
"""One of Linkerd's words for a level, or its list of them."""
