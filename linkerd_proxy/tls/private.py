"""Files with secrets in them: written so that nobody else ever reads them, or half of them."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from linkerd_proxy.errors import InvalidConfiguration

__all__ = [
    "check_directory",
    "check_owner",
    "create_file",
    "make_directory",
    "read_file",
    "read_private",
    "replace_file",
]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LARGEST = 1 << 20  # bytes: keys, chains and bundles are far below


def make_directory(directory: Path) -> None:
    """Make a directory that only its owner enters, or check that others can't change what is in one.

    Raises:
        InvalidConfiguration: if that can't be, with the remedy.
    """
    try:
        directory.mkdir(mode=0o700, parents=True)
        return
    except FileExistsError:
        check_directory(directory)
    except OSError as error:
        raise InvalidConfiguration(f"cannot make {directory}: {error.strerror}; give a path you may write to") from None


def check_directory(directory: Path) -> None:
    """Raise :exc:`~linkerd_proxy.errors.InvalidConfiguration` if others can change what is in a directory."""
    try:
        found = directory.stat()
    except OSError as error:
        remedy = "name a directory that 'linkerd-proxy authority init' has made"
        raise InvalidConfiguration(f"cannot read {directory}: {error.strerror}; {remedy}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidConfiguration(f"{directory} is no directory: give another path")
    if found.st_mode & _OTHERS_WRITE:
        raise InvalidConfiguration(f"others may write to {directory}: run 'chmod 700 {directory}'")


def check_owner(directory: Path) -> None:
    """Raise :exc:`~linkerd_proxy.errors.InvalidConfiguration` if a directory is another user's, who can change it."""
    _check_owner(directory, directory.stat())


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise InvalidConfiguration(
            f"{path} belongs to user {found.st_uid}, who can change it: run this as that user, or 'chown' it"
        )


def create_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file that was not there; of several who try, one succeeds.

    Raises:
        FileExistsError: if there is one.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        _write(descriptor, data, mode)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(descriptor)
    _sync_directory(path.parent)


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file in place of what was there: whoever reads it finds the old one or the new one, whole."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    create_file(beside, data, mode=mode)
    try:
        os.replace(beside, path)
    except BaseException:
        beside.unlink()
        raise
    _sync_directory(path.parent)


def _write(descriptor: int, data: bytes, mode: int) -> None:
    os.fchmod(descriptor, mode)  # whatever the umask says
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    # The name survives a crash only once its directory has reached the disk.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        InvalidConfiguration: if it can't be read, or is larger than any that is meant.
    """
    return _read(path, forbidden=0)


def read_private(path: Path) -> bytes:
    """Return the content of a file that nobody but its owner may read, who is this user or the administrator.

    Raises:
        InvalidConfiguration: if others may, or it is another's, with the remedy; or as with :func:`read_file`.
    """
    return _read(path, forbidden=_OTHERS)


def _read(path: Path, *, forbidden: int) -> bytes:
    try:
        # Of the open file, so that it is this one's permissions; and a pipe must not keep us waiting.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InvalidConfiguration(f"{path} is no regular file: give one")
            if forbidden:
                _check_owner(path, found)
            if found.st_mode & forbidden:
                raise InvalidConfiguration(
                    f"others may use {path} (mode {stat.S_IMODE(found.st_mode):04o}): run 'chmod 600 {path}', "
                    "and replace the key if somebody may have read it"
                )
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidConfiguration(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise InvalidConfiguration(f"{path} is larger than {_LARGEST} bytes: it can't be what is meant")
    return data
