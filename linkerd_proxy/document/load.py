"""Load a document from a file or a text."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from linkerd_proxy.document.convert import convert
from linkerd_proxy.document.tree import MAX_SIZE, InvalidDocument, Node, Problem

__all__ = ["load", "loads", "parse", "read"]

T = TypeVar("T")


def parse(text: str, name: str) -> Node:
    """Parse a document: by its name's ending (``.json``, ``.yaml``, ``.yml``), or else as JSON if it begins like that.

    Raises InvalidDocument if it can't be read.
    """
    text = text.removeprefix("\ufeff")
    is_json = name.endswith(".json") or (text.lstrip()[:1] in {"{", "["} and not name.endswith((".yaml", ".yml")))
    if is_json:
        from linkerd_proxy.document.json_text import parse_json

        return parse_json(text, name)
    from linkerd_proxy.document.yaml_text import parse_yaml

    return parse_yaml(text, name)


def loads(text: str, wanted: type[T], name: str = "document") -> T:
    """Return a text as a checked value; see :func:`~linkerd_proxy.document.convert.convert`."""
    return convert(parse(text, name), wanted, name)


def load(path: str | Path, wanted: type[T]) -> T:
    """Return a file as a checked value.

    Raises:
        InvalidDocument: naming the file, the lines and the remedies; also if it can't be read.
        InvalidConfiguration: if it is YAML and ruamel.yaml is not installed.
    """
    return convert(read(path), wanted, str(path))


def read(path: str | Path) -> Node:
    """Return a file as it was written, each value with its line. Raises as :func:`load` does."""
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise InvalidDocument(name, [Problem(0, "", f"it can't be read: {error.strerror}")]) from error
    except ValueError as error:  # a name with a NUL in it
        raise InvalidDocument(name, [Problem(0, "", f"it can't be read: {error}")]) from error
    if len(data) > MAX_SIZE:
        raise InvalidDocument(name, [Problem(0, "", f"it is larger than {MAX_SIZE >> 20} MiB: is it the right file?")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidDocument(name, [Problem(line, "", "this is no UTF-8: save the file as UTF-8")]) from None
    return parse(text, name)
