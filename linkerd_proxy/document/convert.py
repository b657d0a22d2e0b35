"""From a document's tree to values of Python's types, every problem told at once."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from linkerd_proxy.document.shape import Partial, Range, Tagged, Text
from linkerd_proxy.document.tree import InvalidDocument, Node, Problem
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["LISTS", "convert", "document_fields", "document_name"]

T = TypeVar("T")


LISTS: dict[object, Callable[[Iterable[Any]], object]] = {
    list: list,
    tuple: tuple,
    Sequence: tuple,
    frozenset: lambda items: frozenset(one for one in items if not isinstance(one, _Bad)),
}
"""What a list of a document becomes."""


class _Bad:
    """Stands for a value that could not be made; the problem has been noted."""


_BAD = _Bad()


def convert(node: Node, wanted: type[T], name: str) -> T:
    """Return the document as a value of a type.

    Types are dataclasses (keys are the fields' names, or ``field(metadata={"name": ...})``; unknown keys are errors),
    ``str``, ``int``, ``float``, ``bool``, ``None``, ``Literal``, unions, ``tuple[X, ...]``, ``list``,
    ``Mapping[str, X]``, and ``Annotated`` ones with a :class:`~linkerd_proxy.document.shape.Text`, ``Range`` or
    ``Tagged``.

    Args:
        node: The document.
        wanted: The type.
        name: The document's name, for problems.

    Raises:
        InvalidDocument: with all problems.
    """
    converter = _Converter()
    value = converter.make(node, wanted, "")
    if converter.problems:
        raise InvalidDocument(name, converter.problems)
    return cast("T", value)


def document_name(field: dataclasses.Field[Any]) -> str:
    """Return the key that stands for a dataclass's field in documents."""
    return str(field.metadata.get("name", field.name))


def document_fields(cls: type[Any]) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Return the fields of a dataclass that documents may set, with their types, by key."""
    found = _fields.get(cls)
    if found is None:
        found = _fields[cls] = _fields_of(cls)
    return found


_fields: dict[type[Any], dict[str, tuple[dataclasses.Field[Any], Any]]] = {}


def _fields_of(cls: type[Any]) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {document_name(field): (field, hints[field.name]) for field in dataclasses.fields(cls) if field.init}


class _Converter:
    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def bad(self, line: int, path: str, text: str) -> _Bad:
        self.problems.append(Problem(line, path, text))
        return _BAD

    def make(self, node: Node, wanted: Any, path: str) -> object:
        origin = get_origin(wanted)
        if origin is Annotated:
            return self._annotated(node, wanted, path)
        if origin in (Union, types.UnionType):
            return self._union(node, get_args(wanted), path)
        if origin is Literal:
            return self._literal(node, get_args(wanted), path)
        if origin in LISTS:
            return self._list(node, get_args(wanted)[0], LISTS[origin], path)
        if origin in (dict, Mapping):
            return self._mapping(node, get_args(wanted)[1], path)
        if dataclasses.is_dataclass(wanted):
            return self._dataclass(node, cast("type[object]", wanted), path)
        return self._scalar(node, wanted, path)

    # --- scalars -------------------------------------------------------------------------------

    def _scalar(self, node: Node, wanted: Any, path: str) -> object:
        value = node.value
        if wanted in (None, type(None)) and value is None:
            return None
        if wanted is bool and isinstance(value, bool):
            return value
        if wanted is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if wanted is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                given = "NaN" if math.isnan(value) else "infinity"
                return self.bad(node.line, path, f"{given} is no number here: give one")
            return float(value)
        if wanted is str and isinstance(value, str):
            if "\0" in value:  # no name, path or header holds one, and the system's calls choke on it
                return self.bad(node.line, path, "the text holds a NUL character: remove it")
            return value
        if wanted in (object, Any):
            return node.plain()
        remedy = f': put it in quotes, "{value}"' if wanted is str and isinstance(value, (int, float)) else ""
        return self.bad(node.line, path, f"expected {described(wanted)}, found {node.kind}{remedy}")

    def _literal(self, node: Node, choices: tuple[object, ...], path: str) -> object:
        for choice in choices:
            if node.value == choice and type(node.value) is type(choice):
                return choice
        return self.bad(node.line, path, f"{node.kind} is none of {_listed(choices)}{_meant(node.value, choices)}")

    def _annotated(self, node: Node, wanted: Any, path: str) -> object:
        inner, *notes = get_args(wanted)
        for note in notes:
            if isinstance(note, Text):
                return self._text(node, note, path)
            if isinstance(note, Tagged):
                return self._tagged(node, note, path)
            if isinstance(note, Partial):
                return self._partial(node, note.of, path)
        value = self.make(node, inner, path)
        for note in notes:
            if isinstance(note, Range) and isinstance(value, (int, float)) and not note.low <= value <= note.high:
                return self.bad(node.line, path, f"{value} is out of range: give a number {note}")
        return value

    def _text(self, node: Node, note: Text, path: str) -> object:
        value = node.value
        if note.numbers and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            return self.bad(node.line, path, f"expected a text like {note.example!r}, found {node.kind}")
        try:
            return note.read(value)
        except ValueError as error:  # InvalidConfiguration is one
            return self.bad(node.line, path, str(error))

    def _union(self, node: Node, choices: tuple[Any, ...], path: str) -> object:
        likely = [choice for choice in choices if _kind(choice) in (_kind_of(node), "any")]
        if len(likely) == 1:
            return self.make(node, likely[0], path)
        for choice in likely:
            attempt = _Converter()
            value = attempt.make(node, choice, path)
            if not attempt.problems:
                return value
        if likely:  # what is wrong with the first is the best that can be said
            return self.make(node, likely[0], path)
        return self.bad(node.line, path, f"expected {' or '.join(map(described, choices))}, found {node.kind}")

    # --- containers ----------------------------------------------------------------------------

    def _list(self, node: Node, item: Any, make: Callable[[Iterable[Any]], object], path: str) -> object:
        if not isinstance(node.value, list):
            return self.bad(node.line, path, f"expected a list, found {node.kind}")
        return make(self.make(one, item, f"{path}[{index}]") for index, one in enumerate(node.value))

    def _mapping(self, node: Node, item: Any, path: str) -> object:
        if not isinstance(node.value, dict):
            return self.bad(node.line, path, f"expected a mapping, found {node.kind}")
        return {key: self.make(one, item, _under(path, key)) for key, one in node.value.items()}

    def _tagged(self, node: Node, note: Tagged, path: str) -> object:
        if not isinstance(node.value, dict):
            return self.bad(node.line, path, f"expected a mapping with {note.key!r}, found {node.kind}")
        tag = node.value.get(note.key)
        names = tuple(note.choices)
        if tag is None:
            return self.bad(node.line, path, f"the key {note.key!r} is missing: give one of {_listed(names)}")
        if not isinstance(tag.value, str) or tag.value not in note.choices:
            meant = _meant(tag.value, names)
            return self.bad(tag.line, _under(path, note.key), f"{tag.kind} is none of {_listed(names)}{meant}")
        rest = Node({key: one for key, one in node.value.items() if key != note.key}, node.line)
        rest.key_lines = node.key_lines
        return self._dataclass(rest, note.choices[tag.value], path)

    def _dataclass(self, node: Node, wanted: type[object], path: str) -> object:
        values = self._values(node, wanted, path)
        return values if isinstance(values, _Bad) else self._made(node, wanted, values, path)

    def _partial(self, node: Node, wanted: type[object], path: str) -> object:
        values = self._values(node, wanted, path)
        if isinstance(values, _Bad) or isinstance(self._made(node, wanted, values, path), _Bad):
            return _BAD
        return types.MappingProxyType(values)

    def _made(self, node: Node, wanted: type[object], values: dict[str, object], path: str) -> object:
        try:
            return wanted(**values)
        except InvalidConfiguration as error:
            return self.bad(node.line, path, str(error))

    def _values(self, node: Node, wanted: type[object], path: str) -> dict[str, object] | _Bad:
        """Return the values of a dataclass's fields that a document gives."""
        if not isinstance(node.value, dict):
            return self.bad(node.line, path, f"expected a mapping, found {node.kind}")
        fields = document_fields(wanted)
        before = len(self.problems)
        values: dict[str, object] = {}
        for key, one in node.value.items():
            if key not in fields:
                known = [name for name in fields if name not in node.value]
                problem = f"there is no such key{_meant(key, known)}"
                if "?" not in problem:
                    problem += f": the keys are {', '.join(fields)}"
                self.bad(node.key_lines.get(key, one.line), _under(path, key), problem)
                continue
            field, kind = fields[key]
            values[field.name] = self.make(one, kind, _under(path, key))
        for key, (field, kind) in fields.items():
            needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if needed and key not in node.value:
                self.bad(node.line, path, f"the key {key!r} is missing: give it {described(kind)}")
        return _BAD if len(self.problems) > before else values


def _under(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _listed(choices: Sequence[object]) -> str:
    return ", ".join(map(str, choices))


def _meant(given: object, choices: Sequence[object]) -> str:
    from difflib import get_close_matches  # only for those who err

    near = get_close_matches(str(given), [str(choice) for choice in choices], n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _kind_of(node: Node) -> str:
    match node.value:
        case dict():
            return "mapping"
        case list():
            return "list"
        case None:
            return "none"
        case bool():
            return "bool"
        case str():
            return "text"
        case _:
            return "number"


_KINDS: dict[object, str] = {
    str: "text",
    int: "number",
    float: "number",
    bool: "bool",
    None: "none",
    type(None): "none",
}


def _kind(wanted: Any) -> str:
    """Return what kind of node a type is made of."""
    origin = get_origin(wanted)
    if origin is Annotated:
        inner, *notes = get_args(wanted)
        if any(isinstance(note, Text) for note in notes):
            return "any" if any(isinstance(note, Text) and note.numbers for note in notes) else "text"
        return "mapping" if any(isinstance(note, Tagged) for note in notes) else _kind(inner)
    if origin in LISTS:
        return "list"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(wanted):
        return "mapping"
    if origin is Literal:
        return _KINDS.get(type(get_args(wanted)[0]), "any")
    return _KINDS.get(wanted, "any")


_WORDS: dict[object, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    None: "nothing",
    type(None): "nothing",
}


def described(wanted: Any) -> str:
    """Say what a type asks for."""
    origin = get_origin(wanted)
    if origin is Annotated:
        inner, *notes = get_args(wanted)
        for note in notes:
            if isinstance(note, Text):
                return f"a text like {note.example!r}"
        return described(inner)
    if origin in (Union, types.UnionType):
        return " or ".join(described(one) for one in get_args(wanted))
    if origin is Literal:
        return "one of " + _listed(get_args(wanted))
    if origin in LISTS:
        return "a list"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(wanted):
        return "a mapping"
    return _WORDS.get(wanted, "a value")
