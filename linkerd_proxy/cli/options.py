"""Types of the command's options: addresses, durations with a unit, log levels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from linkerd_proxy.address import parse_address, parse_target
from linkerd_proxy.duration import parse_duration
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.log_level import parse_log_level

__all__ = ["ADDRESS", "DURATION", "LOG_LEVEL", "SECONDS", "TARGET", "TIMEOUT", "Command"]

if TYPE_CHECKING:
    _StrParam = click.ParamType[str]
    _FloatParam = click.ParamType[float]
else:  # generic from click 8.5 on
    _StrParam = _FloatParam = click.ParamType


class Command(click.Command):
    """A command that refuses an option which is given twice and can have one value: the first would be lost unheard."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options. Raises UsageError for one that is given twice."""
        if not ctx.resilient_parsing:  # completion looks at half a line
            _, _, given = self.make_parser(ctx).parse_args(list(args))
            for one in given:
                if isinstance(one, click.Option) and not (one.multiple or one.is_flag) and given.count(one) > 1:
                    raise click.UsageError(f"{one.opts[0]} is given {given.count(one)} times: give it once")
        return super().parse_args(ctx, args)


class _AddressType(_StrParam):
    """Checks an address, and leaves it as it was written."""

    name = "address"

    def __init__(self, *, target: bool = False) -> None:
        self._parse = parse_target if target else parse_address

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            self._parse(value)
        except InvalidConfiguration as error:
            self.fail(str(error), param, ctx)
        return value


class _DurationType(_FloatParam):
    """Seconds, written with a unit."""

    name = "duration"

    def __init__(self, *, bare: bool = False, positive: bool = False) -> None:
        self._bare = bare  # whether a number without a unit means seconds
        self._positive = positive

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not isinstance(value, str):
            return value
        try:
            if self._bare and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
                value += "s"
            seconds = parse_duration(value)
            if self._positive and not seconds:
                raise InvalidConfiguration(f"{value!r} is no time: give more than 0")
            return seconds
        except InvalidConfiguration as error:
            self.fail(str(error), param, ctx)


class _LogLevelType(_StrParam):
    """Checks levels of the log, of the whole and of its parts, and leaves them as they were written."""

    name = "level"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parse_log_level(value)
        except InvalidConfiguration as error:
            self.fail(str(error), param, ctx)
        return value


ADDRESS = _AddressType()
"""``host:port``, ``:port``, a port, or ``unix:/path``."""
TARGET = _AddressType(target=True)
"""The same, of what listens there."""
DURATION = _DurationType()
"""A number with a unit."""
TIMEOUT = _DurationType(positive=True)
"""The same, and more than 0."""
SECONDS = _DurationType(bare=True, positive=True)
"""A number with a unit, or of seconds; more than 0."""
LOG_LEVEL = _LogLevelType()
"""One of Linkerd's words for a level, or its list of them."""
