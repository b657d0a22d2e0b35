"""From a document to the stack that it describes: the same layers that a Python script puts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.mesh.config.dispatch import ByListener
from linkerd_proxy.mesh.config.document import ProxyDocument
from linkerd_proxy.mesh.config.kept import Kept
from linkerd_proxy.mesh.config.listening import Around, ListenerStacks
from linkerd_proxy.mesh.config.reaching import Backends

__all__ = ["build"]


def build(
    document: ProxyDocument,
    *,
    base: Path = Path(),  # immutable
    bound: Mapping[str, Sequence[AnyAddress]] | None = None,
    kept: Kept | None = None,
) -> Stack[Connection]:
    """Return the stack that a document describes.

    Args:
        document: What to build.
        base: The directory that the document's files are relative to.
        bound: Where the listeners really listen, by name, if several have ports that the system chose.
        kept: Where resources are kept that stay open when the document changes.

    Raises:
        InvalidConfiguration: for a reference that leads nowhere, and for a certificate that can't be used.
    """
    kept = Kept() if kept is None else kept
    identity = None if document.identity is None else kept.keep(document.identity.identity(base))
    backends = Backends(document.backends, identity, base, kept, document.codec)
    notes: list[Layer[Exchange, Exchange]] = []
    if document.access_log is not None:
        notes.append(document.access_log.layer(base))
    if document.trace is not None:
        notes.append(document.trace.layer(base, kept))
    if document.otlp_metrics is not None:
        document.otlp_metrics.export(base)  # what is wrong with it keeps the document from being taken
    around = Around(backends, base, notes, document.codec, identity, _own_name(document, base))
    stacks = {name: ListenerStacks(name, entry, around).stack() for name, entry in document.listeners.items()}
    if len(stacks) == 1:
        return next(iter(stacks.values()))
    addresses = {name: (bound or {}).get(name) or (entry.address,) for name, entry in document.listeners.items()}
    return ByListener(stacks, addresses)


def _own_name(document: ProxyDocument, base: Path) -> str | None:
    """Return the proxy's own name, if a gateway has to know it."""
    if document.identity is None or all(one.gateway is None or one.gateway.name for one in document.listeners.values()):
        return None
    return document.identity.own_name(base)
