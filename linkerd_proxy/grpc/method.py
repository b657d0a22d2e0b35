"""A method of a gRPC service: its path and its two kinds of message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, Self, cast

from typing_extensions import TypeVar

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Encodable", "Method"]


class Encodable(Protocol):
    """What a message must be able to do: our tables' messages can, and those of protoc's generated modules."""

    def SerializeToString(self) -> bytes:  # noqa: N802  # protobuf's name
        """Return the encoded message."""
        ...

    @classmethod
    def FromString(cls, data: bytes, /) -> Self:  # noqa: N802  # protobuf's name
        """Read a message; raises if it is malformed."""
        ...


Req = TypeVar("Req", bound=Encodable | bytes)
Rep = TypeVar("Rep", bound=Encodable | bytes)


@dataclass(frozen=True, slots=True)
class Method(Generic[Req, Rep]):
    """A method of a service, for asking as well as for serving.

    Args:
        path: ``/package.Service/Method``.
        request: The class of its requests; ``bytes`` leaves messages as they are.
        reply: The class of its replies.
    """

    path: str
    request: type[Req]
    reply: type[Rep]

    def __post_init__(self) -> None:
        service, slash, name = self.path.removeprefix("/").rpartition("/")
        if not (self.path.startswith("/") and slash and service and name) or "/" in service or " " in self.path:
            raise InvalidConfiguration(f"{self.path!r} is no method: write /package.Service/Method")

    def __repr__(self) -> str:
        return f"Method({self.path!r}, {self.request.__name__}, {self.reply.__name__})"


def encode(message: Encodable | bytes) -> bytes:
    """Return a message's bytes."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def decoder_of(kind: type[Rep]) -> Callable[[bytes], Rep]:
    """Return the function that reads messages of a kind."""
    return cast("Callable[[bytes], Rep]", bytes if kind is bytes else cast("type[Encodable]", kind).FromString)
