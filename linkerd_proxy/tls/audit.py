"""What an authority has issued: one line a certificate, in a file that is only ever added to."""

from __future__ import annotations

import errno
import json
import logging
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from linkerd_proxy.errors import InvalidConfiguration

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["LOG", "record_issue"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.authority")

LOG = "issued.log"
"""In an authority's directory: a JSON object a line."""


def record_issue(directory: Path, name: str, leaf: x509.Certificate, *, how: str, now: datetime) -> None:
    """Add a line, before the certificate is handed out: what is not written down is not issued.

    Args:
        directory: The authority's.
        name: Whose certificate it is.
        leaf: The certificate.
        how: Why it was issued: ``command``, ``token``, ``certificate`` or ``uid N``.
        now: When (UTC).

    Raises:
        InvalidConfiguration: if it can't be written.
    """
    entry = {
        "time": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "name": name,
        "serial": f"{leaf.serial_number:x}",
        "until": f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "how": how,
    }
    line = json.dumps(entry) + "\n"
    path = directory / LOG
    try:
        # One write to a file opened for appending: lines of several processes do not mix. Opened for each line, so that
        # a log rotation by renaming needs no signal.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.write(descriptor, line.encode()) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InvalidConfiguration(
            f"cannot write to {path}: {error.strerror}; nothing is issued that is not written down"
        ) from None
    logger.info("issued %s until %s by %s, serial %s", name, entry["until"], how, entry["serial"])
