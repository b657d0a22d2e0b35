"""Tables of field numbers: the same on the wire as what protoc makes of the same definitions."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2, type_pb2
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.grpc import Message, Method
from linkerd_proxy.grpc.identity_api import CertifyRequest, CertifyResponse
from linkerd_proxy.grpc.schema import (
    blob,
    boolean,
    double,
    fixed32,
    fixed64,
    float32,
    int32,
    int64,
    mapping,
    nested,
    optional,
    repeated,
    string,
    uint32,
    uint64,
)
from linkerd_proxy.grpc.times import Timestamp, duration, moment_of, seconds_of, timestamp
from linkerd_proxy.grpc.workload_api import X509Svid, X509SvidResponse


# The shapes of google/protobuf/struct.proto: recursion, a oneof, a map, an enum.
class Value(Message, name="google.protobuf.Value"):
    null_value = int32(1, oneof="kind")
    number_value = double(2, oneof="kind")
    string_value = string(3, oneof="kind")
    bool_value = boolean(4, oneof="kind")
    struct_value = nested(5, lambda: Struct, oneof="kind")
    list_value = nested(6, lambda: ListValue, oneof="kind")


class ListValue(Message, name="google.protobuf.ListValue"):
    values = repeated(nested(1, Value))


class Struct(Message, name="google.protobuf.Struct"):
    fields = mapping(1, string(1), nested(2, Value))


class Everything(Message, name="tests.Everything"):
    a = int32(1)
    b = int64(2)
    c = uint32(3)
    d = uint64(4)
    e = fixed32(5)
    f = fixed64(6)
    g = float32(7)
    h = double(8)
    i = boolean(9)
    j = string(10)
    k = blob(11)
    l = repeated(uint32(12))  # noqa: E741
    m = optional(int32(13))
    name = string(14)
    when = nested(15, Timestamp)
    n = mapping(2000, string(1), blob(2))


def filled():
    return Everything(
        a=-1, b=-(1 << 60), c=7, d=(1 << 64) - 1, e=5, f=6, g=0.5, h=0.25, i=True, j="é", k=b"\0", l=[1, 2, 300], m=0,
        name="n", when=Timestamp(seconds=1), n={"x": b"y"},
    )  # fmt: skip


def test_every_kind_survives_the_wire():
    one = filled()
    other = Everything.FromString(one.SerializeToString())
    assert other == one
    assert (other.a, other.d, other.g, other.j, list(other.l), other.name) == (
        -1,
        (1 << 64) - 1,
        0.5,
        "é",
        [1, 2, 300],
        "n",
    )
    assert (other.n["x"], other.when.seconds) == (b"y", 1)


def test_the_wire_is_what_the_encoding_says():
    one = Everything(a=150, c=7, j="testing", l=[3, 270, 86942], m=0)
    # protobuf.dev/programming-guides/encoding: a varint, a string, a packed field, and a default with presence.
    assert one.SerializeToString() == bytes.fromhex("089601 1807 5207 74657374696e67 6206 03 8e02 9ea705 6800")


def test_presence_is_known_for_nested_optional_and_oneof_fields_only():
    one = Everything.FromString(b"")
    assert not one.HasField("m")
    assert not one.HasField("when")
    assert filled().HasField("m")
    assert filled().HasField("when")
    with pytest.raises(ValueError, match="presence"):
        one.HasField("a")


def test_a_oneof_holds_one():
    one = Value(string_value="x")
    assert one.WhichOneof("kind") == "string_value"
    one.number_value = 2.0
    assert (one.WhichOneof("kind"), one.string_value) == ("number_value", "")


_plain = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=5), _plain, max_size=4))
def test_recursive_messages_read_what_protocs_wrote_and_write_what_they_read(content):
    theirs = struct_pb2.Struct()
    theirs.update(content)
    ours = Struct.FromString(theirs.SerializeToString())
    back = struct_pb2.Struct.FromString(ours.SerializeToString())
    assert back == theirs
    assert type(ours) is not struct_pb2.Struct


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)))
def test_moments_are_timestamps(moment):
    theirs = timestamp_pb2.Timestamp()
    theirs.FromDatetime(moment)
    assert timestamp(moment).SerializeToString() == theirs.SerializeToString()
    assert moment_of(timestamp(moment)) == moment


@given(st.integers(-(10**12), 10**12))
def test_seconds_are_durations(micros):
    theirs = duration_pb2.Duration()
    theirs.FromTimedelta(timedelta(microseconds=micros))
    ours = duration(micros / 1e6)
    assert (ours.seconds, round(ours.nanos, -3)) == (theirs.seconds, theirs.nanos)
    assert seconds_of(ours) == pytest.approx(micros / 1e6)


def test_messages_of_generated_modules_may_be_a_methods():
    method = Method("/google.Types/Get", type_pb2.Type, type_pb2.Type)
    assert repr(method) == "Method('/google.Types/Get', Type, Type)"


def test_linkerds_and_spiffes_messages_have_their_numbers():
    request = CertifyRequest(identity="w", token=b"t", certificate_signing_request=b"c")
    assert request.SerializeToString() == b"\x0a\x01w\x12\x01t\x1a\x01c"
    response = CertifyResponse(leaf_certificate=b"l", intermediate_certificates=[b"i", b"j"])
    response.valid_until.CopyFrom(Timestamp(seconds=1))
    assert response.SerializeToString() == b"\x0a\x01l\x12\x01i\x12\x01j\x1a\x02\x08\x01"
    svid = X509Svid(spiffe_id="s", x509_svid=b"c", x509_svid_key=b"k", bundle=b"b", hint="h")
    assert svid.SerializeToString() == b"\x0a\x01s\x12\x01c\x1a\x01k\x22\x01b\x2a\x01h"
    all_of_it = X509SvidResponse(svids=[svid], crl=[b"r"], federated_bundles={"d": b"b"})
    assert (
        all_of_it.SerializeToString() == b"\x0a\x0f" + svid.SerializeToString() + b"\x12\x01r\x1a\x06\x0a\x01d\x12\x01b"
    )


def test_a_field_that_is_not_there_and_a_value_of_another_type_are_refused():
    with pytest.raises(ValueError, match=r"no .*nothing.* field"):
        Everything(nothing=1)
    with pytest.raises(TypeError):
        Everything(a="1")
    with pytest.raises(InvalidConfiguration, match="no field number"):
        string(0)


_WITHOUT = """
import sys
sys.modules["google"] = None
from linkerd_proxy.grpc.identity_api import CertifyRequest
from linkerd_proxy.errors import InvalidConfiguration
try:
    CertifyRequest()
except InvalidConfiguration as error:
    print(error)
"""


def test_without_protobuf_the_first_message_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "io.linkerd.proxy.identity.CertifyRequest needs protobuf: "
        "install the extra, pip install 'linkerd-proxy[proto]'\n"
    )
