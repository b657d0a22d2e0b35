"""One run: every case's proxies side by side, in interleaved rounds."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bench.cases import CASES, Case
from tests.bench.certificates import make_certificates
from tests.bench.latency import Latency, measure_latency
from tests.bench.loads import Done, Idlers, WrongAnswer, check
from tests.bench.peers import Absent, Plan
from tests.bench.process import NotStarted, Server, free_port, running


@dataclass(frozen=True)
class Settings:
    """How long and how often.

    Args:
        connections: How many connections the load keeps open, one series each.
        rounds: How often every proxy has its turn.
        seconds: How long a turn is; for a big transfer, how many GiB it has.
        idle: How many idle connections are opened.
        proxies: Which proxies take part; none means all.
        warmup: Whether a turn that does not count comes first.
    """

    connections: tuple[int, ...] = (1, 32, 128)
    rounds: int = 5
    seconds: float = 2
    idle: int = 10_000
    proxies: tuple[str, ...] = ()
    warmup: bool = True


@dataclass
class Series:
    """One proxy's rounds in one case.

    ``cost`` holds CPU seconds per request or per byte, ``rate`` requests a second; a round with a wrong answer
    is in ``invalid`` instead.
    """

    case: str
    connections: int
    proxy: str
    cost: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)

    def add(self, done: Done, cpu: float) -> None:
        """Record a valid round."""
        self.cost.append(cpu / done.amount)
        if done.seconds:
            self.rate.append(done.amount / done.seconds)

    def as_dict(self) -> dict[str, object]:
        """What goes into the JSON file."""
        median = statistics.median(self.cost) if self.cost else None
        return {**asdict(self), "median": median}


@dataclass
class Memory:
    """One proxy's memory in bytes: at rest, and with idle connections."""

    proxy: str
    idle: int
    connections: int
    loaded: int

    def as_dict(self) -> dict[str, object]:
        """What goes into the JSON file."""
        return {**asdict(self), "per_connection": (self.loaded - self.idle) / self.connections}


@dataclass
class Results:
    """Everything that a run found, and what it left out and why."""

    series: list[Series] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def measure(names: Sequence[str], settings: Settings) -> Results:
    """Run the named cases; nothing is left running or lying about, whatever happens."""
    results = Results()
    with tempfile.TemporaryDirectory(prefix="linkerd-proxy-bench-") as directory:
        for name in names:
            case = CASES[name]
            _say(f"{name}: {case.title}")
            with _backend(case, Path(directory)) as backend:
                if case.rate:
                    found = measure_latency(
                        case, name, backend, Path(directory), settings.rounds, settings.seconds, results.skipped
                    )
                    for one in found:
                        _say(f"  {one.proxy:<12} p50 {_ms(one.p50)}, p99 {_ms(one.p99)}")
                    results.latency += found
                elif case.load is None:
                    _measure_memory(case, name, backend, Path(directory), settings, results)
                else:
                    _measure_load(case, name, backend, Path(directory), settings, results)
    return results


@contextmanager
def _backend(case: Case, directory: Path) -> Iterator[Server]:
    plan = Plan(case.backend_mode or "tcp", free_port(), 0, directory)
    with running("backend", case.backend(plan), plan.port, directory) as server:
        yield server


@contextmanager
def _proxy(
    case: Case, case_name: str, name: str, backend: Server, directory: Path, results: Results
) -> Iterator[Server | None]:
    """Start one proxy and see it answer; None, with the reason noted, if it can't."""
    with ExitStack() as exits:
        server = None
        try:
            certificates = make_certificates(directory) if case.terminate else None
            plan = Plan(case.mode, free_port(), backend.port, directory, certificates, case.terminate)
            server = exits.enter_context(running(name, case.proxies[name](plan), plan.port, directory))
            if case.backend_mode is not None:
                check(server.port, case.backend_mode, certificates)
        except (Absent, NotStarted, WrongAnswer) as error:
            server = None
            results.skipped[f"{case_name} {name}"] = str(error)
            _say(f"  {name} skipped: {error}")
        yield server


def _chosen(case: Case, settings: Settings) -> list[str]:
    return [name for name in case.proxies if not settings.proxies or name in settings.proxies]


def _measure_load(
    case: Case, case_name: str, backend: Server, directory: Path, settings: Settings, results: Results
) -> None:
    with ExitStack() as exits:
        servers = []
        for name in _chosen(case, settings):
            server = exits.enter_context(_proxy(case, case_name, name, backend, directory, results))
            if server is not None:
                servers.append(server)
        for connections in settings.connections if case.connections else (1,):
            series = [Series(case_name, connections, server.name) for server in servers]
            for index in range(-settings.warmup, settings.rounds):
                for server, one in zip(servers, series, strict=True):
                    _round(case, server, one, connections, settings.seconds, directory, counts=index >= 0)
            for one in series:
                _say(f"  c={connections:<4} {_summary(one)}")
            results.series += series


def _round(
    case: Case, server: Server, series: Series, connections: int, seconds: float, directory: Path, *, counts: bool
) -> None:
    assert case.load is not None
    if len(series.invalid) >= 3:
        return  # broken rather than unlucky: its wrong answers are reported
    try:
        before = server.cpu_seconds()
        more = [directory / "certificates"] if case.terminate else []
        done = case.load(server.port, connections, seconds if counts else min(seconds, 1), *more)
        cpu = server.cpu_seconds() - before
    except (WrongAnswer, OSError) as error:
        series.invalid.append(str(error))
        _say(f"  invalid round of {server.name} at c={connections}: {error}")
    else:
        if counts:
            series.add(done, cpu)


def _measure_memory(
    case: Case, case_name: str, backend: Server, directory: Path, settings: Settings, results: Results
) -> None:
    for name in _chosen(case, settings):
        with _proxy(case, case_name, name, backend, directory, results) as server:
            if server is None:
                continue
            try:
                memory = _with_idlers(server, settings.idle)
            except (WrongAnswer, OSError) as error:
                results.skipped[f"{case_name} {name}"] = f"{settings.idle} idle connections: {error}"
                _say(f"  {name}: {error}")
                continue
            results.memory.append(memory)
            per = (memory.loaded - memory.idle) / memory.connections
            _say(f"  {name:<12} {memory.idle / 2**20:6.1f} MiB, {per / 1024:6.2f} KiB an idle connection")


def _with_idlers(server: Server, count: int) -> Memory:
    idle = server.rss_bytes()
    idlers = Idlers(server.port)
    try:
        idlers.open(count)
        loaded = server.rss_bytes()
        alive = idlers.alive()
        if alive != count:
            raise WrongAnswer(f"only {alive} of {count} idle connections were kept open")
    finally:
        idlers.close()
    return Memory(server.name, idle, count, loaded)


def _summary(series: Series) -> str:
    if not series.cost:
        return f"{series.proxy:<12} no valid round"
    middle = statistics.median(series.cost)
    spread = (max(series.cost) - min(series.cost)) / middle if middle else 0
    if not series.rate:
        return f"{series.proxy:<12} {8e-9 / middle if middle else 0:7.2f} Gbit per CPU second, spread {spread:.0%}"
    rate = statistics.median(series.rate)
    return f"{series.proxy:<12} {middle * 1e6:7.1f} us, spread {spread:4.0%}, {rate:9.0f} requests/s"


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.2f} ms" if seconds else "no valid round"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
