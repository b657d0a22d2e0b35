"""Our encoder against Google's decoder."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy import protobuf

_KINDS = {
    "u": (1, "TYPE_UINT64"),
    "b": (2, "TYPE_BOOL"),
    "s": (3, "TYPE_SINT64"),
    "d": (4, "TYPE_DOUBLE"),
    "f": (5, "TYPE_FIXED64"),
    "t": (6, "TYPE_STRING"),
}


@pytest.fixture(scope="module")
def sample():
    file = descriptor_pb2.FileDescriptorProto(name="sample.proto", package="sample", syntax="proto3")
    message = file.message_type.add(name="Sample")
    for name, (number, kind) in _KINDS.items():
        field = message.field.add(name=name, number=number, label=1)
        field.type = descriptor_pb2.FieldDescriptorProto.Type.Value(kind)
    packed = message.field.add(name="p", number=7, label=3)
    packed.type = descriptor_pb2.FieldDescriptorProto.TYPE_SINT64
    inner = message.field.add(name="m", number=8, label=1, type_name=".sample.Sample")
    inner.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sample.Sample"))


_U64 = st.integers(0, 2**64 - 1)
_S64 = st.integers(-(2**63), 2**63 - 1)


@given(u=_U64, b=st.booleans(), s=_S64, d=st.floats(allow_nan=False), f=_U64, t=st.text(), p=st.lists(_S64))
def test_google_reads_what_we_write(sample, u, b, s, d, f, t, p):
    data = b"".join(
        (
            protobuf.uint(1, u),
            protobuf.boolean(2, b),
            protobuf.sint(3, s),
            protobuf.double(4, d),
            protobuf.fixed64(5, f),
            protobuf.text(6, t),
            protobuf.packed_sint(7, p),
        )
    )
    read = sample.FromString(data + protobuf.message(8, data))
    for part in (read, read.m):
        assert (part.u, part.b, part.s, part.d, part.f, part.t, list(part.p)) == (u, b, s, d, f, t, p)


def test_a_message_that_is_empty_is_still_there(sample):
    assert sample.FromString(protobuf.message(8, b"")).HasField("m")


def test_a_delimited_message_says_its_length():
    assert protobuf.delimited(b"x" * 300) == b"\xac\x02" + b"x" * 300
