"""Which users of this host may have which names from the authority's Unix socket."""

from __future__ import annotations

import logging
import pwd
from collections.abc import Callable, Iterable
from pathlib import Path

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.private import read_file
from linkerd_proxy.tls.stored import Stamp, stamp_of

__all__ = ["Users"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.authority")

_NOBODY = 65534  # whom the kernel names for everybody that has no number in this user namespace


class Users:
    """The names that each user may have.

    Args:
        allowed: Entries as ``USER=NAME``; a user by number or by name.
        file: A file with more of them: lines of a user and his names, ``#`` before comments. It is read anew when it
            changes; what can't be read is logged, and changes nothing.
        check: Checks a name, as :meth:`~linkerd_proxy.tls.authority.Authority.check_name` does.

    Raises:
        InvalidConfiguration: naming the entry or the line, and the remedy.
    """

    __slots__ = ("_allowed", "_check", "_file", "_names", "_stamp")

    def __init__(self, allowed: Iterable[str], file: Path | None, check: Callable[[str], str]) -> None:
        self._check = check
        self._allowed: dict[int, frozenset[str]] = {}
        for entry in allowed:
            user, _, name = entry.partition("=")
            self._add(self._allowed, f"--allow {entry}", user, [name])
        self._file = file
        self._stamp: Stamp = None
        self._names = self._allowed
        if file is not None:
            self._stamp = stamp_of(file)
            self._names = self._read(file)

    def names_of(self, uid: int) -> frozenset[str]:
        """Return the names that a user may have now."""
        file = self._file
        if file is not None and (stamp := stamp_of(file)) != self._stamp:
            self._stamp = stamp
            try:
                self._names = self._read(file)
            except InvalidConfiguration as error:
                logger.error("%s; it goes on as before", error)
        return self._names.get(uid, frozenset())

    def _read(self, file: Path) -> dict[int, frozenset[str]]:
        names = dict(self._allowed)
        try:
            lines = read_file(file).decode().splitlines()
        except UnicodeDecodeError:
            raise InvalidConfiguration(f"{file} is no text: write lines as '1000 web.mesh.local'") from None
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            if words:
                self._add(names, f"{file}, line {number}", words[0], words[1:])
        return names

    def _add(self, names: dict[int, frozenset[str]], where: str, user: str, allowed: Iterable[str]) -> None:
        try:
            uid = _uid(user)
            checked = frozenset(map(self._check, allowed))
        except InvalidConfiguration as error:
            raise InvalidConfiguration(f"{where}: {error}") from None
        if not checked:
            raise InvalidConfiguration(f"{where}: no name follows the user; write '{user} web.mesh.local'")
        names[uid] = names.get(uid, frozenset()) | checked


def _uid(user: str) -> int:
    try:
        uid = int(user) if user.isascii() and user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise InvalidConfiguration(f"there is no user {user!r}: give the name or the number of one") from None
    if uid == _NOBODY:
        raise InvalidConfiguration(
            f"{user} stands for every user that is unknown here: give the workload one of its own"
        )
    return uid
