"""Metrics of the process itself, under the names that Prometheus' client libraries agreed on."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from linkerd_proxy._version import __version__
from linkerd_proxy.metrics.registry import Registry

__all__ = ["process_metrics", "process_start"]

_BTIME = re.compile(r"^btime ([0-9]+)$", re.MULTILINE)


def process_start() -> float:
    """Return when this process began, in seconds since the epoch, to about a hundredth of a second."""
    try:
        # The name in the second field may hold anything, blanks and brackets too: what counts stands behind it.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        booted = _BTIME.search(Path("/proc/stat").read_text())
        assert booted is not None
        return int(booted[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except OSError:  # no /proc (macOS): when this module was imported is the best there is
        return _IMPORTED


_IMPORTED = datetime.now(UTC).timestamp()


@contextmanager
def process_metrics(registry: Registry) -> Iterator[None]:
    """Keep CPU seconds, resident memory, open files and the version in ``registry`` inside the block."""
    registry.gauge("proxy_build_info", "The version, as a label", version=__version__).value = 1
    started = registry.gauge("process_start_time_seconds", "When the process began, in seconds since the epoch")
    started.value = process_start()
    cpu = registry.counter("process_cpu_seconds_total", "CPU time of the process, user and system")
    memory = registry.gauge("process_resident_memory_bytes", "Memory of the process that is in RAM")
    files = registry.gauge("process_open_fds", "Open file descriptors")

    def collect() -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu.value = usage.ru_utime + usage.ru_stime
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory.value = pages * resource.getpagesize()
            files.value = len(os.listdir("/proc/self/fd")) - 1  # one is the listing's own
        except OSError:  # no /proc (macOS): the largest size so far is the best there is, in kilobytes
            memory.value = usage.ru_maxrss

    with registry.collecting(collect):
        yield
