"""What stays open when a configuration is read anew: resources about which nothing has changed."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeVar

from linkerd_proxy.core.shared import Resource

__all__ = ["Kept"]

R = TypeVar("R", bound=Resource[Any])


class Kept:
    """Remembers resources by what they are, so that one which is made again is the same object.

    Stacks that name the same object share what is open: so a new stack has its identity and its endpoints at once.

    Args:
        before: What the last stack was made of.
    """

    __slots__ = ("_before", "_known")

    def __init__(self, before: Kept | None = None) -> None:
        self._before: dict[Hashable, Resource[Any]] = {} if before is None else before._known  # itself
        self._known: dict[Hashable, Resource[Any]] = {}

    def keep(self, resource: R) -> R:
        """Return the object that is equal to this one, or this one."""
        found = self._known.get(resource) or self._before.get(resource) or resource
        self._known[found] = found
        return found  # type: ignore[return-value]  # equal dataclasses are of one type
