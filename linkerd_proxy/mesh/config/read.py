"""Read a configuration from its file, or tell everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path

from linkerd_proxy.document.convert import convert
from linkerd_proxy.document.load import read
from linkerd_proxy.document.tree import InvalidDocument, Node, Problem
from linkerd_proxy.mesh.config.document import ProxyDocument
from linkerd_proxy.mesh.config.references import reference_problems

__all__ = ["read_config", "structure"]


def read_config(path: str | Path) -> ProxyDocument:
    """Return a file, YAML or JSON, as a checked document.

    Raises:
        InvalidDocument: with every problem, its line and its remedy.
        InvalidConfiguration: if it is YAML and ruamel.yaml is not installed (extra ``config``).
    """
    document, problems = structure(read(path), str(path))
    if problems or document is None:
        raise InvalidDocument(str(path), problems)
    return document


def structure(root: Node, name: str) -> tuple[ProxyDocument | None, list[Problem]]:
    """Return a document that was read, or None, and what is wrong with it."""
    problems = reference_problems(root)
    try:
        return convert(root, ProxyDocument, name), problems
    except InvalidDocument as error:
        return None, [*error.problems, *problems]
