"""A whole proxy as a document: its root, and what proves who it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from linkerd_proxy.address import Address
from linkerd_proxy.document.shape import Duration, Range, Text
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.h1.codec import make_codec
from linkerd_proxy.mesh.config.backends import BackendEntry
from linkerd_proxy.mesh.config.listeners import ListenerEntry
from linkerd_proxy.mesh.config.looking import AdminEntry, TapServerEntry
from linkerd_proxy.mesh.config.observing import AccessLogEntry, OtlpMetricsEntry, TraceEntry
from linkerd_proxy.mesh.config.words import Where
from linkerd_proxy.mesh.identities import PREFIX, find_identity, own_name
from linkerd_proxy.mesh.log_level import parse_log_level
from linkerd_proxy.names import check_identity
from linkerd_proxy.tls.identity import Identity

__all__ = ["IdentityEntry", "ProxyDocument"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifyEntry:
    """An authority that certifies over the network, by Linkerd's protocol: ``linkerd-proxy authority serve``."""

    address: Where
    """Where it listens."""
    name: str
    """The identity to ask for."""
    anchors: str
    """A file of PEM certificates: whom to trust, the authority among them."""
    server_name: str | None = None
    """The name that the authority proves; on this host it may be left out, and it is asked in the clear."""
    token_file: str | None = None
    """The file of what proves to the authority who asks."""

    def __post_init__(self) -> None:
        check_identity(self.name, repr(self.name))
        here = not isinstance(self.address, Address) or self.address.is_loopback
        if self.server_name is None and not here:
            raise InvalidConfiguration(f"{self.address} is on another host: say in server_name what it proves to be")

    def identity(self, base: Path) -> Identity | None:
        """Return the identity, in Linkerd's own words for it."""
        said = {
            f"{PREFIX}SVC_ADDR": str(self.address),
            f"{PREFIX}LOCAL_NAME": self.name,
            f"{PREFIX}TRUST_ANCHORS": str(base / self.anchors),
            f"{PREFIX}SVC_NAME": self.server_name or "",
            f"{PREFIX}TOKEN_FILE": "" if self.token_file is None else str(base / self.token_file),
        }
        return find_identity(environment=said)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityEntry:
    """What the proxy proves to its mesh, and whom it trusts; it comes from one of the four sources."""

    directory: str | None = None
    """Where ``cert.pem``, ``key.pem`` and ``ca.pem`` are, read anew when they change."""
    certificate: str = "cert.pem"
    """The certificate's file, relative to the directory."""
    key: str = "key.pem"
    """The key's file, likewise."""
    anchors: str = "ca.pem"
    """The trust anchors' file, likewise."""
    spiffe: str | None = None
    """Where the SPIFFE agent listens: ``unix:///path``, or ``tcp://127.0.0.1:port``."""
    name: str | None = None
    """The SPIFFE ID to use, where the agent has several."""
    authority: CertifyEntry | None = None
    """An authority that certifies over the network."""
    environment: bool = False
    """Whether the environment tells, by Linkerd's variables: an authority, an agent or a directory."""

    def __post_init__(self) -> None:
        given = (self.directory is not None, self.spiffe is not None, self.authority is not None, self.environment)
        if sum(given) != 1:
            raise InvalidConfiguration(
                "an identity has one source: give directory, spiffe, authority, or environment: true"
            )
        if self.spiffe is not None:
            self.identity(Path())

    def identity(self, base: Path) -> Identity:
        """Return the identity, its directory relative to ``base``.

        Raises:
            InvalidConfiguration: if the environment does not tell it.
        """
        if self.environment or self.authority is not None:
            found = find_identity() if self.authority is None else self.authority.identity(base)
            if found is None:
                raise InvalidConfiguration("identity: the environment does not tell one; give directory or spiffe")
            return found
        if self.spiffe is not None:
            from linkerd_proxy.mesh.spiffe import spiffe

            return spiffe(self.spiffe, name=self.name)
        from linkerd_proxy.tls.files import Files

        assert self.directory is not None
        return Files(base / self.directory, self.certificate, self.key, self.anchors)

    def own_name(self, base: Path) -> str:
        """Return the proxy's own name, before the identity is opened.

        Raises:
            InvalidConfiguration: if nothing tells it, or the certificate can't be read.
        """
        if self.environment:
            return own_name()
        if self.authority is not None:
            return self.authority.name
        if self.directory is None:
            if self.name is None:
                raise InvalidConfiguration("the proxy's own name is not known: give identity.name, or gateway.name")
            return self.name
        from linkerd_proxy.tls.pem import credentials_from_pem
        from linkerd_proxy.tls.private import read_file

        paths = [base / self.directory / name for name in (self.certificate, self.key, self.anchors)]
        certificate, key, anchors = ((str(path), read_file(path)) for path in paths)
        return credentials_from_pem(certificate, key, anchors, datetime.now(UTC)).name


def _log_level(text: str) -> str:
    parse_log_level(text)
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyDocument:
    """A whole proxy. Files that it names are relative to its own directory."""

    listeners: Mapping[str, ListenerEntry]
    """Where connections come in, by names of your choice, which metrics carry."""
    backends: Mapping[str, BackendEntry] = field(default_factory=dict)
    """Where work goes, by names of your choice."""
    identity: IdentityEntry | None = None
    """What the proxy proves to its mesh."""
    access_log: AccessLogEntry | None = None
    """A line for each request."""
    trace: TraceEntry | None = None
    """Taking part in traces."""
    otlp_metrics: OtlpMetricsEntry | None = None
    """Sending metrics to a collector."""
    admin: AdminEntry | Where | None = None
    """Where to serve /live, /ready, /metrics and /config."""
    tap_server: TapServerEntry | None = None
    """Who may watch live requests by Linkerd's tap."""
    codec: Literal["auto", "h11", "httptools"] = "auto"
    """What parses HTTP/1: ``httptools`` (extra ``fast``), ``h11``, or the first of them that is there."""
    grace: Duration = 120.0
    """How long connections may take to end in a drain, and after a change of this file."""
    workers: Annotated[int, Range(1, 256)] = 1
    """How many processes share the ports."""
    log: Annotated[str, Text(_log_level, "warn")] = "warn"
    """The level of the log: ``debug``, ``info``, ``warn``, ``error``."""
    schema: str | None = field(default=None, metadata={"name": "$schema"})
    """For editors, which find the JSON Schema by it."""

    def __post_init__(self) -> None:
        make_codec(self.codec)
        if not self.listeners:
            raise InvalidConfiguration("there are no listeners: give at least one, as web: {address: 127.0.0.1:8080}")

    @property
    def looked_at(self) -> AdminEntry | None:
        """The admin endpoint, however it was written."""
        return self.admin if isinstance(self.admin, AdminEntry | None) else AdminEntry(address=self.admin)
