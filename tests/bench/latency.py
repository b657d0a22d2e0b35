"""What two proxies with mutual TLS between them add to the time that a request takes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tests.bench.cases import Case
from tests.bench.certificates import make_certificates
from tests.bench.loads import WrongAnswer, check, paced
from tests.bench.peers import Absent, Plan
from tests.bench.process import NotStarted, Server, free_port, running

DIRECT = "direct"
"""The name under which the backend itself is measured."""


@dataclass
class Latency:
    """One path's rounds: the median and the 99th percentile of each, in seconds."""

    case: str
    proxy: str
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)

    def add(self, times: list[float]) -> None:
        """Record a valid round, whose times ascend."""
        self.p50.append(times[len(times) // 2])
        self.p99.append(times[len(times) * 99 // 100])

    def as_dict(self) -> dict[str, object]:
        """What goes into the JSON file."""
        found = asdict(self)
        if self.p50:
            found["median"] = {"p50": statistics.median(self.p50), "p99": statistics.median(self.p99)}
        return found


def measure_latency(
    case: Case, case_name: str, backend: Server, directory: Path, rounds: int, seconds: float, skipped: dict[str, str]
) -> list[Latency]:
    """Let the backend and every pair of proxies take turns at the case's rate."""
    with ExitStack() as exits:
        ports = {DIRECT: backend.port}
        for name in case.proxies:
            try:
                ports[name] = exits.enter_context(_pair(case, name, backend, directory))
            except (Absent, NotStarted, WrongAnswer) as error:
                skipped[f"{case_name} {name}"] = str(error)
        found = [Latency(case_name, name) for name in ports]
        for index in range(-1, rounds):
            for one in found:
                try:
                    times = paced(ports[one.proxy], case.rate, seconds if index >= 0 else 1)
                except WrongAnswer as error:
                    one.invalid.append(str(error))
                else:
                    if index >= 0:
                        one.add(times)
    return found


@contextmanager
def _pair(case: Case, name: str, backend: Server, directory: Path) -> Iterator[int]:
    """Start the proxy of the backend's side, then the client's; yield the latter's port."""
    certificates = make_certificates(directory)
    near = Plan(case.mode, free_port(), backend.port, directory, certificates, terminate=True)
    far = replace(near, port=free_port(), backend=near.port, terminate=False, originate=True)
    with (
        running(f"{name}-inbound", case.proxies[name](near), near.port, directory),
        running(f"{name}-outbound", case.proxies[name](far), far.port, directory),
    ):
        check(far.port, case.mode)
        yield far.port
