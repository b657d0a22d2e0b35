"""One-time tokens: what a workload that has no certificate yet shows to get its first one."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.authority import utc_now
from linkerd_proxy.tls.private import create_file, make_directory

__all__ = ["TOKEN_LIFETIME", "RefusedToken", "Tokens"]

TOKEN_LIFETIME = 3600.0
"""Seconds: an hour, for bringing the token to its workload."""

_BYTES = 32  # 256 bits: nobody guesses one
_LONGEST = 256  # characters that are looked at; ours have 43


class RefusedToken(Exception):
    """A token is not worth a certificate; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens that an authority has given out and that were not used.

    Each is a file, named by the token's SHA-256: whoever reads the directory learns no token. Removing the file is what
    uses it, and of several processes that try one succeeds.

    Args:
        directory: Where they are kept, ``tokens`` in the authority's.
        now: The wall clock, for tests.
    """

    directory: Path
    now: Callable[[], datetime] = field(default=utc_now, compare=False)

    def make(self, name: str, *, lifetime: float = TOKEN_LIFETIME) -> str:
        """Return a new token for one certificate of one name. Nothing but its hash is kept.

        Args:
            name: Whose certificate it is for.
            lifetime: Seconds until it is worth nothing.

        Raises:
            InvalidConfiguration: if it can't be kept, or the lifetime is none.
        """
        if not 1 <= lifetime <= 365 * 86400:
            raise InvalidConfiguration(f"a token that is good for {lifetime:g} s is none: give 1 s to 365 d")
        make_directory(self.directory)
        self.purge()
        token = secrets.token_urlsafe(_BYTES)
        expires = self.now() + timedelta(seconds=lifetime)
        try:
            create_file(self._file(token), json.dumps({"name": name, "expires": expires.timestamp()}).encode())
        except OSError as error:
            raise InvalidConfiguration(f"cannot write to {self.directory}: {error.strerror}") from None
        return token

    def check(self, token: str, name: str) -> None:
        """Raise :exc:`RefusedToken` unless the token could be used for this name now. It stays as it is."""
        known = self._read(self._file(token[:_LONGEST]))
        if known is None:
            raise RefusedToken("the token is unknown, or was used: make a new one with 'linkerd-proxy authority token'")
        bound, expires = known
        if bound != name:  # not which: who finds a token shall not learn whose it is
            raise RefusedToken(f"the token is not for {name}: ask with the name that it was made for")
        if self.now() >= expires:
            raise RefusedToken("the token has expired: make a new one with 'linkerd-proxy authority token'")

    def use(self, token: str, name: str) -> None:
        """Use a token up. Raises :exc:`RefusedToken` if it can't be used, or if another was faster."""
        self.check(token, name)
        try:
            os.unlink(self._file(token))
        except FileNotFoundError:
            raise RefusedToken("the token was used: make a new one with 'linkerd-proxy authority token'") from None

    def outstanding(self) -> list[tuple[str, datetime]]:
        """Return the name and the end of every token that can be used, the next to expire first."""
        found = (self._read(path) for path in self._files())
        now = self.now()
        return sorted((one for one in found if one is not None and one[1] > now), key=lambda one: (one[1], one[0]))

    def purge(self) -> None:
        """Remove the expired ones."""
        now = self.now()
        for path in self._files():
            known = self._read(path)
            if known is not None and known[1] <= now:
                path.unlink(missing_ok=True)

    def _files(self) -> Iterator[Path]:
        if self.directory.is_dir():
            yield from (path for path in self.directory.iterdir() if not path.name.startswith("."))

    def _file(self, token: str) -> Path:
        return self.directory / hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()

    def _read(self, path: Path) -> tuple[str, datetime] | None:
        try:
            known = json.loads(path.read_bytes())
            return str(known["name"]), datetime.fromtimestamp(float(known["expires"]), UTC)
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None  # it is gone, or is none of ours: worth nothing either way
