"""Protocol buffers without generated files: a message is a class whose body is its table of field numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeAlias, cast, overload

from typing_extensions import TypeVar

from linkerd_proxy.errors import InvalidConfiguration

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool

__all__ = [
    "Field", "Message", "blob", "boolean", "double", "fixed32", "fixed64", "float32", "int32", "int64", "mapping",
    "nested", "optional", "repeated", "string", "uint32", "uint64",
]  # fmt: skip

T = TypeVar("T")
K = TypeVar("K")
M = TypeVar("M", bound="Message")


class Field(Generic[T]):
    """One field of a message: its number, how it is encoded, and to type checkers the type of its value.

    Made by the functions of this module (:func:`string`, :func:`nested`, :func:`repeated` ...), in a message's class.
    """

    __slots__ = ("entry", "kind", "label", "number", "oneof", "target")

    def __init__(self, number: int, kind: str, *, oneof: str = "", target: _Target | None = None) -> None:
        if not 0 < number < 1 << 29:
            raise InvalidConfiguration(f"{number} is no field number: give one from 1 to 536870911")
        self.number: int = number
        self.kind: str = kind
        self.label: str = ""
        self.oneof: str = oneof
        self.target: _Target | None = target
        self.entry: tuple[Field[object], Field[object]] | None = None

    @overload
    def __get__(self, instance: None, owner: type) -> Field[T]: ...
    @overload
    def __get__(self, instance: Message, owner: type) -> T: ...
    def __get__(self, instance: Message | None, owner: type) -> Field[T] | T:
        return self  # messages are protobuf's own objects, so only the class itself is ever asked

    def __set__(self, instance: Message, value: T) -> None:
        raise NotImplementedError("a message is an object of protobuf's own")

    def message(self) -> type[Message] | None:
        """Return the class of a nested message, which may have been named before it was defined."""
        target = self.target
        return target if target is None or isinstance(target, type) else target()

    def __repr__(self) -> str:
        return f"<{self.label or 'field'} {self.number}: {self.kind}>"


class Message:
    """A message, as a table of its fields.

    ::

        class CertifyRequest(Message, name="io.linkerd.proxy.identity.CertifyRequest"):
            identity = string(1)
            token = blob(2)

    ``CertifyRequest(identity="web")`` makes one and ``CertifyRequest.FromString(data)`` reads one. Both return an
    object of protobuf's own runtime, in C; the class is its table, and its type to type checkers.
    Enums are :func:`int32`, which is the same on the wire. Descriptors are made when a message is first needed, in a
    pool of our own, so that generated modules of the same names may be there as well.

    Raises:
        InvalidConfiguration: when first used, if protobuf is not installed (extra ``proto``).
    """

    __full_name__: ClassVar[str] = ""  # names that no field has
    __fields__: ClassVar[dict[str, Field[object]]] = {}

    def __init_subclass__(cls, *, name: str) -> None:
        super().__init_subclass__()
        cls.__full_name__ = name
        cls.__fields__ = {key: value for key, value in vars(cls).items() if isinstance(value, Field)}

    def __new__(cls, **fields: object) -> Self:
        """Make a message; fields that are not given have their default."""
        return cast("Self", _class_of(cls)(**fields))

    # --- what protobuf's objects have, under protobuf's names ---

    @classmethod
    def FromString(cls, data: bytes) -> Self:  # noqa: N802
        """Read a message. Raises ``google.protobuf.message.DecodeError``, a ValueError, if it is malformed."""
        return cast("Self", _class_of(cls).FromString(data))

    def SerializeToString(self) -> bytes:  # noqa: N802
        """Return the encoded message."""
        raise NotImplementedError

    def HasField(self, name: str) -> bool:  # noqa: N802
        """Whether a field with presence was set: a nested message, an optional one, or one of a oneof."""
        raise NotImplementedError

    def WhichOneof(self, name: str) -> str | None:  # noqa: N802
        """Return the name of the field of a oneof that is set."""
        raise NotImplementedError

    def CopyFrom(self, other: Self) -> None:  # noqa: N802
        """Become equal to another message: nested ones can't be assigned."""
        raise NotImplementedError


_Target: TypeAlias = type[Message] | Callable[[], type[Message]]


# --- fields ------------------------------------------------------------------------------------


def string(number: int, *, oneof: str = "") -> Field[str]:
    """Text."""
    return Field(number, "string", oneof=oneof)


def blob(number: int, *, oneof: str = "") -> Field[bytes]:
    """Bytes."""
    return Field(number, "bytes", oneof=oneof)


def boolean(number: int, *, oneof: str = "") -> Field[bool]:
    """True or false."""
    return Field(number, "bool", oneof=oneof)


def int32(number: int, *, oneof: str = "") -> Field[int]:
    """A signed number, or an enum."""
    return Field(number, "int32", oneof=oneof)


def int64(number: int, *, oneof: str = "") -> Field[int]:
    """A signed number of 64 bits."""
    return Field(number, "int64", oneof=oneof)


def uint32(number: int, *, oneof: str = "") -> Field[int]:
    """A number of 32 bits."""
    return Field(number, "uint32", oneof=oneof)


def uint64(number: int, *, oneof: str = "") -> Field[int]:
    """A number of 64 bits."""
    return Field(number, "uint64", oneof=oneof)


def fixed32(number: int, *, oneof: str = "") -> Field[int]:
    """A number that always takes four bytes."""
    return Field(number, "fixed32", oneof=oneof)


def fixed64(number: int, *, oneof: str = "") -> Field[int]:
    """A number that always takes eight bytes."""
    return Field(number, "fixed64", oneof=oneof)


def float32(number: int, *, oneof: str = "") -> Field[float]:
    """A floating-point number of 32 bits."""
    return Field(number, "float", oneof=oneof)


def double(number: int, *, oneof: str = "") -> Field[float]:
    """A floating-point number of 64 bits."""
    return Field(number, "double", oneof=oneof)


def nested(number: int, target: type[M] | Callable[[], type[M]], *, oneof: str = "") -> Field[M]:
    """A message in the message; ``lambda: Name`` for one that is defined further down, or the same."""
    return Field(number, "message", oneof=oneof, target=target)


def optional(field: Field[T]) -> Field[T]:
    """Give a field presence, so that ``HasField`` tells a default that was sent from nothing."""
    field.label = "optional"
    return field


def repeated(field: Field[T]) -> Field[MutableSequence[T]]:
    """Any number of one field's values, in order."""
    many: Field[MutableSequence[T]] = Field(field.number, field.kind, target=field.target)
    many.label = "repeated"
    return many


def mapping(number: int, key: Field[K], value: Field[T]) -> Field[MutableMapping[K, T]]:
    """A map: on the wire, entries with ``key`` as field 1 and ``value`` as field 2."""
    many: Field[MutableMapping[K, T]] = Field(number, "message")
    many.label = "map"
    many.entry = (cast("Field[object]", key), cast("Field[object]", value))
    return many


# --- descriptors -------------------------------------------------------------------------------

_pool: list[DescriptorPool] = []
_classes: dict[type[Message], type[Message]] = {}


def _class_of(table: type[Message]) -> type[Message]:
    """Return protobuf's class for a table, made with all that it refers to when it is first needed."""
    made = _classes.get(table)
    if made is None:
        try:
            from google.protobuf import message_factory
        except ImportError:
            raise InvalidConfiguration(
                f"{table.__full_name__} needs protobuf: install the extra, pip install 'linkerd-proxy[proto]'"
            ) from None
        pool = _declare([one for one in _reachable(table) if one not in _classes])
        for one in _reachable(table):
            if one not in _classes:
                made = message_factory.GetMessageClass(pool.FindMessageTypeByName(one.__full_name__))
                _classes[one] = cast("type[Message]", made)
        made = _classes[table]
    return made


def _references(table: type[Message]) -> Iterator[type[Message]]:
    for field in table.__fields__.values():
        for one in (field, *(field.entry or ())):
            target = one.message()
            if target is not None:
                yield target


def _reachable(table: type[Message]) -> list[type[Message]]:
    found = [table]
    for one in found:
        found += [other for other in dict.fromkeys(_references(one)) if other not in found]
    return found


def _package(table: type[Message]) -> str:
    return table.__full_name__.rpartition(".")[0]


def _declare(tables: list[type[Message]]) -> DescriptorPool:
    """Add tables to the pool: one file for each of their packages, those first that others refer to."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    if not _pool:
        _pool.append(descriptor_pool.DescriptorPool())
    pool = _pool[0]
    needs = {_package(one): {_package(other) for other in _references(one)} for one in tables}
    for one in tables:
        needs[_package(one)] |= {_package(other) for other in _references(one)}
    for package in TopologicalSorter({key: value - {key} for key, value in needs.items()}).static_order():
        members = [one for one in tables if _package(one) == package]
        if not members:
            continue
        file = descriptor_pb2.FileDescriptorProto(
            name=f"table/{members[0].__full_name__}", package=package, syntax="proto3"
        )
        others = {other for one in members for other in _references(one)} - set(members)
        file.dependency.extend(sorted({pool.FindMessageTypeByName(other.__full_name__).file.name for other in others}))
        for one in members:
            _describe(one, file)
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _describe(table: type[Message], file: FileDescriptorProto) -> None:
    message = file.message_type.add(name=table.__full_name__.rpartition(".")[2])
    for oneof in dict.fromkeys(field.oneof for field in table.__fields__.values() if field.oneof):
        message.oneof_decl.add(name=oneof)
    for name, field in table.__fields__.items():
        _add_field(message, name, field, table.__full_name__)
    for added in message.field:  # the oneofs of optional fields come after the real ones
        if added.proto3_optional:
            added.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{added.name}")


def _add_field(message: DescriptorProto, name: str, field: Field[object], within: str) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto

    many = field.label in {"repeated", "map"}
    added = message.field.add(
        name=name,
        number=field.number,
        type=getattr(FieldDescriptorProto, f"TYPE_{field.kind.upper()}"),
        label=FieldDescriptorProto.LABEL_REPEATED if many else FieldDescriptorProto.LABEL_OPTIONAL,
    )
    target = field.message()
    if target is not None:
        added.type_name = f".{target.__full_name__}"
    if field.oneof:
        added.oneof_index = [one.name for one in message.oneof_decl].index(field.oneof)
    if field.label == "optional" and target is None:
        added.proto3_optional = True
    if field.entry is not None:
        title = "".join(part.capitalize() for part in name.split("_")) + "Entry"  # the name that protobuf asks for
        entry = message.nested_type.add(name=title)
        entry.options.map_entry = True
        for key, part in zip(("key", "value"), field.entry, strict=True):
            _add_field(entry, key, part, f"{within}.{title}")
        added.type_name = f".{within}.{title}"
