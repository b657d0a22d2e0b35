"""Look a configuration over: its words, what it refers to, certificates, regular expressions and ports."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

from linkerd_proxy.address import parse_address
from linkerd_proxy.document.convert import convert
from linkerd_proxy.document.load import read
from linkerd_proxy.document.tree import InvalidDocument, Node, Problem
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.config.backends import EndpointsFileEntry, UpstreamTlsEntry
from linkerd_proxy.mesh.config.build import build
from linkerd_proxy.mesh.config.document import IdentityEntry
from linkerd_proxy.mesh.config.kept import Kept
from linkerd_proxy.mesh.config.listeners import TlsEntry
from linkerd_proxy.mesh.config.observing import OtlpMetricsEntry, TraceEntry
from linkerd_proxy.mesh.config.peers import GatewayEntry
from linkerd_proxy.mesh.config.read import structure
from linkerd_proxy.mesh.config.references import addresses, entries, unused_backends, walk
from linkerd_proxy.mesh.config.regex import nests_repetitions
from linkerd_proxy.mesh.config.web import web_context

__all__ = ["Finding", "examine"]

T = TypeVar("T")

_EXTRAS = {"dns": ("dns", "dns"), "tls": ("service_identity", "egress")}
"""By a backend's key: the library that it needs, and the extra that brings it."""
_FILE: type[EndpointsFileEntry | str] = EndpointsFileEntry | str  # type: ignore[assignment]  # convert() takes it
_SOON = 86400.0 * 7  # seconds: a certificate for the web that expires within a week is worth a word; own figure


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a configuration.

    Args:
        severity: Whether it can't be served, or is probably not what was meant.
        line: Where, from 1; 0 for the file as a whole.
        path: Of which value, as in ``backends.api.retry``.
        text: What is wrong, and what to do.
    """

    severity: Literal["error", "warning"]
    line: int
    path: str
    text: str

    def told(self, name: str) -> str:
        """Return one line that names the file, the line and the value."""
        told = Problem(self.line, self.path, self.text).told(name)
        return told if self.severity == "error" else f"{told} (a warning)"


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def examine(path: str | Path, *, ports: bool = False, now: Callable[[], datetime] = _utc_now) -> list[Finding]:
    """Return everything that there is to say about a file, in the order of its lines.

    Args:
        path: The file, YAML or JSON.
        ports: Whether to try to listen where it says, for a moment.
        now: The wall clock.

    Raises:
        InvalidConfiguration: only if the file is YAML and ruamel.yaml is not installed.
    """
    base = Path(path).parent
    try:
        root = read(path)
    except InvalidDocument as error:
        return [_error(problem) for problem in error.problems]
    document, problems = structure(root, str(path))
    findings = [_error(problem) for problem in problems]
    findings += _of_identity(root, base, now())
    findings += _of_certificates(root, base, now())
    findings += _of_files(root, base)
    findings += _of_extras(root, base)
    findings += _of_exports(root, base)
    findings += _of_gateways(root, base)
    findings += _of_patterns(root)
    findings += _of_weights(root)
    findings += [Finding("warning", one.line, one.path, one.text) for one in unused_backends(root)]
    if ports:
        findings += await _of_ports(root)
    if document is not None and not any(one.severity == "error" for one in findings):
        try:
            build(document, base=base)
        except InvalidConfiguration as error:
            findings.append(Finding("error", 0, "", str(error)))
    return sorted(findings, key=lambda one: one.line)


def _error(problem: Problem) -> Finding:
    return Finding("error", problem.line, problem.path, problem.text)


def _part(node: Node, kind: type[T]) -> T | None:
    """Return a part of the document, or None if it can't be read, which is told elsewhere."""
    try:
        return convert(node, kind, "")
    except InvalidDocument:
        return None


def _of_identity(root: Node, base: Path, now: datetime) -> Iterator[Finding]:
    node = root.value.get("identity") if isinstance(root.value, dict) else None
    entry = None if node is None else _part(node, IdentityEntry)
    if node is None or entry is None:
        return
    if entry.directory is None:
        yield from _tried(node, "identity", lambda: entry.identity(base))
        return
    from linkerd_proxy.tls.pem import credentials_from_pem

    directory = base / entry.directory
    try:
        certificate, key, anchors = (_text(directory / name) for name in (entry.certificate, entry.key, entry.anchors))
        credentials_from_pem(certificate, key, anchors, now)
    except InvalidConfiguration as error:
        yield Finding("error", node.line, "identity", str(error))


def _text(path: Path) -> tuple[str, bytes]:
    try:
        return str(path), path.read_bytes()
    except OSError as error:
        raise InvalidConfiguration(f"{path}: {error.strerror}; name another file, or put it there") from None


def _of_certificates(root: Node, base: Path, now: datetime) -> Iterator[Finding]:
    for name, listener in entries(root, "listeners").items():
        node = listener.value.get("tls") if isinstance(listener.value, dict) else None
        entry = None if node is None else _part(node, TlsEntry)
        if node is None or entry is None or entry.certificate is None:
            continue
        path = f"listeners.{name}.tls"
        try:
            web_context(entry, base)
            yield from _of_validity(_text(base / entry.certificate), now, node.line, path)
        except InvalidConfiguration as error:
            yield Finding("error", node.line, path, str(error))


def _of_validity(certificate: tuple[str, bytes], now: datetime, line: int, path: str) -> Iterator[Finding]:
    from linkerd_proxy.tls.pem import validity

    begins, ends = validity(certificate)
    if ends <= now:
        text = f"{certificate[0]} expired at {ends:%Y-%m-%dT%H:%M:%SZ}: have it issued anew"
        yield Finding("error", line, path, text)
    elif begins > now:
        text = f"{certificate[0]} is not valid before {begins:%Y-%m-%dT%H:%M:%SZ}: wait, or look at the clock"
        yield Finding("error", line, path, text)
    elif (ends - now).total_seconds() < _SOON:
        text = f"{certificate[0]} expires at {ends:%Y-%m-%dT%H:%M:%SZ}: have it issued anew in time"
        yield Finding("warning", line, path, text)


def _of_files(root: Node, base: Path) -> Iterator[Finding]:
    """Read the files of endpoints that backends name, and look for the place of the access log."""
    from linkerd_proxy.discover.file import EndpointsDocument
    from linkerd_proxy.document.load import load

    log = entries(root, "access_log").get("to")
    if log is not None and isinstance(log.value, str) and not (base / log.value).parent.is_dir():
        text = f"there is no directory {(base / log.value).parent}: make it, or name another file"
        yield Finding("error", log.line, "access_log.to", text)
    for name, backend in entries(root, "backends").items():
        node = backend.value.get("file") if isinstance(backend.value, dict) else None
        entry = None if node is None else _part(node, _FILE)
        if node is None or entry is None:
            continue
        try:
            load(base / (entry if isinstance(entry, str) else entry.path), EndpointsDocument)
        except InvalidConfiguration as error:
            for line in str(error).splitlines():
                yield Finding("error", node.line, f"backends.{name}.file", line)


def _of_extras(root: Node, base: Path) -> Iterator[Finding]:
    """Tell of libraries that backends need and that are not installed, and of roots that can't be read."""
    for name, backend in entries(root, "backends").items():
        keys = backend.value if isinstance(backend.value, dict) else {}
        for key, (library, extra) in _EXTRAS.items():
            if key in keys and find_spec(library) is None:
                text = f"this needs a library that is not installed: pip install 'linkerd-proxy[{extra}]'"
                yield Finding("error", keys[key].line, f"backends.{name}.{key}", text)
        entry = _part(keys["tls"], UpstreamTlsEntry) if "tls" in keys else None
        if entry is not None and entry.roots is not None:
            try:
                ssl.create_default_context().load_verify_locations(base / entry.roots)
            except (OSError, ssl.SSLError) as error:
                text = f"{base / entry.roots} has no readable certificate ({error}): give PEM"
                yield Finding("error", keys["tls"].line, f"backends.{name}.tls.roots", text)


def _of_exports(root: Node, base: Path) -> Iterator[Finding]:
    """Tell what is wrong with collectors, which the environment may name."""
    told = root.value if isinstance(root.value, dict) else {}
    metrics, trace = told.get("otlp_metrics"), told.get("trace")
    if metrics is not None and (export := _part(metrics, OtlpMetricsEntry)) is not None:
        yield from _tried(metrics, "otlp_metrics", lambda: export.export(base))
    if trace is not None and (tracing := _part(trace, TraceEntry)) is not None:
        yield from _tried(trace, "trace", lambda: tracing.layer(base, Kept()))


def _of_gateways(root: Node, base: Path) -> Iterator[Finding]:
    """Tell of gateways that don't know their own name."""
    node = root.value.get("identity") if isinstance(root.value, dict) else None
    identity = None if node is None else _part(node, IdentityEntry)
    if identity is None or identity.directory is not None:  # what is wrong there was told
        return
    for name, listener in entries(root, "listeners").items():
        gateway = listener.value.get("gateway") if isinstance(listener.value, dict) else None
        entry = None if gateway is None else _part(gateway, GatewayEntry)
        if gateway is not None and entry is not None and entry.name is None:
            yield from _tried(gateway, f"listeners.{name}.gateway", lambda: identity.own_name(base))


def _tried(node: Node, path: str, make: Callable[[], object]) -> Iterator[Finding]:
    try:
        make()
    except InvalidConfiguration as error:
        yield Finding("error", node.line, path, str(error))


def _of_patterns(root: Node) -> Iterator[Finding]:
    text = "a repetition repeats: whoever chooses the text can make it run for ever; write it without nesting"
    for key, path, node in walk(root):
        if key == "path_regex":
            where, value = path, node
        elif isinstance(node.value, dict) and {"type", "value"} <= node.value.keys():
            where, value = f"{path}.value", node.value["value"]
            if node.value["type"].value != "RegularExpression":
                continue
        else:
            continue
        if isinstance(value.value, str) and nests_repetitions(value.value):
            yield Finding("warning", value.line, where, text)


def _of_weights(root: Node) -> Iterator[Finding]:
    """Tell of splits that lead nowhere (Gateway API: 500)."""
    for key, path, node in walk(root):
        if key != "backend_refs" or not isinstance(node.value, list) or not node.value:
            continue
        weights = [one.value.get("weight") if isinstance(one.value, dict) else None for one in node.value]
        if all(weight is not None and weight.value == 0 for weight in weights):
            text = "all weights are 0, so that nothing goes anywhere and the answer is 500: give one of them a weight"
            yield Finding("warning", node.line, path, text)


async def _of_ports(root: Node) -> list[Finding]:
    findings: list[Finding] = []
    for path, node in addresses(root):
        try:
            address = parse_address(str(node.value))
        except InvalidConfiguration:
            continue  # told already
        try:
            for socket in await open_listeners(address):
                socket.close()
        except InvalidConfiguration as error:
            findings.append(Finding("error", node.line, path, str(error)))
    return findings
