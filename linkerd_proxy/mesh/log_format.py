"""The form of the log's lines: plain text, or JSON for those who collect them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

__all__ = ["FORMATS", "JsonLines", "current_log_format", "log_to"]

FORMATS = ("PLAIN", "JSON")
"""What Linkerd calls them."""
_FIELDS = ("code", "peer", "local")


class JsonLines(logging.Formatter):
    """Writes each record as one line of JSON, with Linkerd's ``timestamp``, ``level``, ``target`` and ``fields``.

    ``fields`` has the ``message``; of a failed connection also its failure ``code`` and between which addresses it was
    (``peer``, ``local``), so that nobody needs to take the message apart.

    Args:
        worker: The number of the process, if it is one of several.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, str] = {"message": record.getMessage()}
        fields |= {name: str(value) for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        line: dict[str, object] = {
            "timestamp": moment.replace("+00:00", "Z"),
            "level": "WARN" if record.levelno == logging.WARNING else record.levelname,
            "target": record.name,
            "fields": fields,
        }
        if self._worker is not None:
            line["worker"] = self._worker
        return json.dumps(line, ensure_ascii=False)


def log_to(stream: TextIO | None = None, *, form: str = "PLAIN", worker: int | None = None) -> None:
    """Let Python's root logger write lines of a form, unless the program has set it up already.

    Args:
        stream: Where to; standard error by default.
        form: One of :data:`FORMATS`.
        worker: The number of this process, if it is one of several.
    """
    handler = logging.StreamHandler(stream)
    who = "" if worker is None else f"worker {worker}: "
    handler.setFormatter(JsonLines(worker) if form == "JSON" else logging.Formatter(f"%(levelname)s {who}%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def current_log_format() -> str:
    """Return the form of the root logger's lines, for processes that shall write the same."""
    return "JSON" if any(isinstance(one.formatter, JsonLines) for one in logging.getLogger().handlers) else "PLAIN"
