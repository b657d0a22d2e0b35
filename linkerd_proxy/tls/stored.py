"""An authority in its directory, read anew when its files change; what can't be read changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.authority import LEAF_LIFETIME, Authority, utc_now
from linkerd_proxy.tls.identity import Credentials
from linkerd_proxy.tls.store import ANCHORS, ISSUER, KEY, read_store

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["Stamp", "StoredAuthority", "stamp_of"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.authority")

Stamp: TypeAlias = tuple[int, int, int, int] | None
"""What tells one content of a file from another without reading it, and one owner or mode from another."""


def stamp_of(path: Path) -> Stamp:
    """Return a file's stamp, None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


class StoredAuthority:
    """The authority in a directory, as it is at the moment.

    Args:
        directory: As ``linkerd-proxy authority init`` makes it.
        now: The wall clock, for tests.

    Raises:
        InvalidConfiguration: if there is none. Later failures are logged once for each state of the files, and the
            authority that was read before stays.
    """

    __slots__ = ("_authority", "_now", "_stamps", "directory")

    def __init__(self, directory: Path, *, now: Callable[[], datetime] = utc_now) -> None:
        self.directory: Path = directory
        self._now = now
        self._stamps = self._look()
        self._authority = read_store(directory, now=now)

    @property
    def now(self) -> Callable[[], datetime]:
        """The wall clock."""
        return self._now

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(stamp_of(self.directory / name) for name in (KEY, ISSUER, ANCHORS))

    def current(self) -> Authority:
        """Return it, read anew if a file has changed."""
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps  # before reading: what changes meanwhile is seen the next time
            try:
                self._authority = read_store(self.directory, now=self._now)
            except InvalidConfiguration as error:
                logger.error("the authority's files have changed and can't be used, it goes on as before: %s", error)
            else:
                logger.info("read %r from its changed files", self._authority)
        return self._authority

    def issue(self, name: str, *, lifetime: float = LEAF_LIFETIME) -> Credentials:
        """Make a key and a certificate, as :meth:`~linkerd_proxy.tls.authority.Authority.issue` does."""
        return self.current().issue(name, lifetime=lifetime)

    def sign(self, name: str, request: bytes, *, lifetime: float = LEAF_LIFETIME) -> tuple[x509.Certificate, ...]:
        """Answer a signing request, as :meth:`~linkerd_proxy.tls.authority.Authority.sign` does."""
        return self.current().sign(name, request, lifetime=lifetime)

    def __repr__(self) -> str:
        return f"<StoredAuthority in {self.directory}: {self._authority!r}>"
