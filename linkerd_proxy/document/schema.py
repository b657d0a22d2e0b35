"""The JSON Schema of a document's type, for editors."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from linkerd_proxy.document.convert import LISTS, document_fields
from linkerd_proxy.document.shape import Partial, Range, Tagged, Text

__all__ = ["Schema", "field_texts", "schema"]

Schema: TypeAlias = dict[str, Any]

_SCALARS: dict[object, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
}


def schema(wanted: type[object]) -> Schema:
    """Return the JSON Schema (2020-12) of what :func:`~linkerd_proxy.document.convert.convert` accepts for a type."""
    definitions: dict[str, Schema] = {}
    root = _of(wanted, definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _of(wanted: Any, definitions: dict[str, Schema]) -> Schema:
    origin = get_origin(wanted)
    if origin is Annotated:
        return _annotated(wanted, definitions)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(one, definitions) for one in get_args(wanted)]}
    if origin is Literal:
        return {"enum": list(get_args(wanted))}
    if origin in LISTS:
        return {"type": "array", "items": _of(get_args(wanted)[0], definitions)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _of(get_args(wanted)[1], definitions)}
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return _dataclass(wanted, definitions)
    return dict(_SCALARS.get(wanted, {}))


def _annotated(wanted: Any, definitions: dict[str, Schema]) -> Schema:
    inner, *notes = get_args(wanted)
    for note in notes:
        if isinstance(note, Text):
            return {"type": ["string", "number"] if note.numbers else "string", "examples": [note.example]}
        if isinstance(note, Partial):
            return _dataclass(note.of, definitions)
        if isinstance(note, Tagged):
            return {"oneOf": [_tagged(note, tag, cls, definitions) for tag, cls in note.choices.items()]}
    found = _of(inner, definitions)
    for note in notes:
        if isinstance(note, Range):
            bounds = {"minimum": note.low, "maximum": note.high}
            found |= {word: bound for word, bound in bounds.items() if math.isfinite(bound)}
    return found


def _tagged(note: Tagged, tag: str, cls: type[object], definitions: dict[str, Schema]) -> Schema:
    found = _object(cls, definitions)
    found["properties"] = {note.key: {"const": tag}, **found["properties"]}
    found["required"] = [note.key, *found.get("required", [])]
    return found


def _dataclass(cls: type[object], definitions: dict[str, Schema]) -> Schema:
    if cls.__name__ not in definitions:
        definitions[cls.__name__] = {}  # one that holds itself refers to what is being made
        definitions[cls.__name__] = _object(cls, definitions)
    return {"$ref": f"#/$defs/{cls.__name__}"}


def _object(cls: type[object], definitions: dict[str, Schema]) -> Schema:
    required: list[str] = []
    texts = field_texts(cls)
    properties: dict[str, Schema] = {}
    for key, (field, kind) in document_fields(cls).items():
        properties[key] = _of(kind, definitions)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(key)
        elif (default := _default(field.default, kind)) is not None:
            properties[key]["default"] = default
        if field.name in texts:
            properties[key]["description"] = " ".join(texts[field.name].replace("``", "").split())
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        found["required"] = required
    text = inspect.getdoc(cls) or ""
    if not text.startswith(f"{cls.__name__}("):  # what dataclass makes up where there is none
        found["description"] = " ".join(text.partition("\n\n")[0].split())
    return found


def _default(value: object, kind: Any) -> object:
    """Return a default as the document would write it, or None if it would not."""
    note = next((one for one in get_args(kind)[1:] if isinstance(one, Text)), None) if _is_annotated(kind) else None
    if note is None or isinstance(value, str):
        return value if isinstance(value, (str, int, float, bool)) else None
    try:  # of texts that stand for something else, durations are those whose defaults can be written
        return f"{value:g}s" if isinstance(value, float) and note.read(f"{value:g}s") == value else None
    except ValueError:
        return None


def _is_annotated(kind: Any) -> bool:
    return get_origin(kind) is Annotated


def field_texts(cls: type[object]) -> dict[str, str]:
    """Return the docstrings that stand below a dataclass's fields, those of its parents too, in their sources.

    They are as they were written, in reStructuredText. There are none where there is no source.
    """
    texts: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if dataclasses.is_dataclass(one):
            texts.update(_own_texts(one))
    return texts


def _own_texts(cls: type[object]) -> Iterator[tuple[str, str]]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError):
        return
    assert isinstance(tree, ast.ClassDef)
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            yield ast.unparse(field.target), str(text.value.value)
