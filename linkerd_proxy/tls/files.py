"""An identity in files that somebody else keeps fresh: cert-manager, a mounted secret, a script."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

from linkerd_proxy.core.background import open_background
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.identity import Credentials, Identity, LiveIdentity
from linkerd_proxy.tls.private import read_file
from linkerd_proxy.tls.renewal import Reported
from linkerd_proxy.tls.stored import Stamp, stamp_of

__all__ = ["Files"]

_AGAIN = 60.0  # seconds


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, repr=False)
class Files(Identity):
    """Reads ``cert.pem`` (the leaf, then intermediates), ``key.pem`` and ``ca.pem`` (the trust anchors) of a directory.

    They are read again when one has changed: by its times, its size or its inode, through links, so that the swapped
    links of a mounted Kubernetes secret are seen. A change is taken once the files have been left alone from one look
    to the next. What can't be used changes nothing and is one line in the log for each state of the files. It is tried
    again every minute, for a certificate may be from a host whose clock is ahead.

    Args:
        directory: Where the three are.
        certificate: The certificate's file, if it is elsewhere; relative to the directory.
        key: The key's file, likewise.
        anchors: The trust anchors' file, likewise.
        interval: Seconds between looks.
        now: The wall clock, for tests.

    Raises:
        InvalidConfiguration: when opened, if a file can't be read or peers would not accept the certificate.
    """

    directory: str | os.PathLike[str] = "."
    certificate: str | os.PathLike[str] = "cert.pem"
    key: str | os.PathLike[str] = "key.pem"
    anchors: str | os.PathLike[str] = "ca.pem"
    interval: float = 1.0
    now: Callable[[], datetime] = _utc_now

    def __post_init__(self) -> None:
        if not self.interval > 0:
            raise InvalidConfiguration(f"Files(interval={self.interval!r}): give more than 0 seconds")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LiveIdentity]:
        """Read the files, and yield the identity."""
        stamps = self._look()
        credentials = self._read()
        live = LiveIdentity(credentials.name)
        reported = Reported(live)
        reported.publish(credentials, self.now())
        async with open_background() as nursery:
            nursery.start_soon(self._watch, live, reported, stamps)
            yield live

    async def _watch(self, live: LiveIdentity, reported: Reported, seen: tuple[Stamp, ...]) -> None:
        told: tuple[Stamp, ...] | None = None
        while True:
            with trio.move_on_after(math.inf if told is None else _AGAIN):
                seen = await self._change(seen)
            try:
                credentials = self._read()
                if credentials.name != live.name:
                    raise InvalidConfiguration(
                        f"{self._path(self.certificate)}: it is {credentials.name}'s, and this proxy is {live.name};"
                        " give it a certificate for that name, or start it anew"
                    )
            except InvalidConfiguration as error:
                if told != seen:
                    reported.failed(error, None, self.now())
                told = seen
            else:
                told = None
                reported.publish(credentials, self.now())

    async def _change(self, seen: tuple[Stamp, ...]) -> tuple[Stamp, ...]:
        """Wait until the files are others than were seen, and have been left alone for one interval."""
        before = seen
        while True:
            await trio.sleep(self.interval)
            stamps = self._look()
            if stamps != seen and stamps == before:
                return stamps
            before = stamps

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(stamp_of(self._path(name)) for name in (self.certificate, self.key, self.anchors))

    def _path(self, name: str | os.PathLike[str]) -> Path:
        return Path(self.directory) / name

    def _read(self) -> Credentials:
        from linkerd_proxy.tls.pem import credentials_from_pem

        return credentials_from_pem(
            self._text(self.certificate), self._text(self.key), self._text(self.anchors), self.now()
        )

    def _text(self, name: str | os.PathLike[str]) -> tuple[str, bytes]:
        path = self._path(name)
        try:
            return str(path), read_file(path)
        except InvalidConfiguration as error:
            raise InvalidConfiguration(
                f"{error}; put ca.pem, cert.pem and key.pem there, as 'linkerd-proxy authority issue' writes them, or "
                "name other files"
            ) from None
