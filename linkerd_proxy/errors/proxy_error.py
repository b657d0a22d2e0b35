"""The failure that the proxy understands and can explain: what all of them have in common."""

from __future__ import annotations

from typing import ClassVar

from linkerd_proxy.grpc_status import GrpcStatus

__all__ = ["CODES", "ProxyError"]


CODES: dict[str, type[ProxyError]] = {}
"""Every failure code and the error that carries it."""


class ProxyError(Exception):
    """Something failed in a way that the proxy understands and can explain.

    Args:
        problem: What happened, in plain words and without a full stop.
        layer: The layer that noticed, for example ``"Connect"``.
        endpoint: The peer that it happened with, as text.
        waited: How long the layer had waited, in seconds.
        remedy: What the reader can do about it.

    Context that only an outer layer knows goes up with ``error.add_note("endpoint 10.0.0.1:80")``.
    """

    code: ClassVar[str] = "PE"
    status: ClassVar[int] = 500
    grpc_status: ClassVar[GrpcStatus] = GrpcStatus.INTERNAL
    closes: ClassVar[bool] = True
    """Whether the answer also ends the client's HTTP/1 connection, as Linkerd does."""
    remedy: ClassVar[str] = ""
    retry_after: float | None = None
    """Seconds after which to try again, for the answer's ``retry-after``, or None."""

    def __init__(
        self,
        problem: str,
        *,
        layer: str = "",
        endpoint: str = "",
        waited: float | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.layer = layer
        self.endpoint = endpoint
        self.waited = waited
        self.hint: str = remedy or self.remedy

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" in cls.__dict__:
            CODES[cls.code] = cls

    def __str__(self) -> str:
        text = self.problem
        if self.endpoint:
            text += f" (endpoint {self.endpoint})"
        if self.waited is not None:
            text += f" after {self.waited:.3g} s"
        if self.layer:
            text = f"{self.layer}: {text}"
        return f"{text}; {self.hint}" if self.hint else text

    @property
    def explanation(self) -> str:
        """The code and the message, as they stand in ``l5d-proxy-error`` and in the log."""
        return f"{self.code} {self}"


CODES["PE"] = ProxyError
