"""What our client says in its ClientHello on mesh links: exactly Linkerd's lists (linkerd/rustls/src/crypto.rs)."""

import struct

import pytest
from OpenSSL import SSL

from linkerd_proxy.testing import Authority
from linkerd_proxy.tls.context import mesh_context

SUITES = [0x1301, 0x1302, 0x1303]  # TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256
X25519MLKEM768, X25519, SECP256R1, SECP384R1 = 0x11EC, 29, 23, 24
VERSIONS, GROUPS, TICKET, PSK, EARLY = 43, 10, 35, 41, 42


@pytest.fixture(scope="module")
def hello() -> tuple[list[int], dict[int, bytes]]:
    """Return the suites and the extensions of a ClientHello."""
    credentials = Authority().issue("web.mesh.local")
    connection = SSL.Connection(mesh_context(credentials, "client"), None)
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    record = connection.bio_read(65536)
    body = record[9:]  # the record's and the message's heads
    at = 2 + 32
    at += 1 + body[at]
    (size,) = struct.unpack_from("!H", body, at)
    suites = list(struct.unpack_from(f"!{size // 2}H", body, at + 2))
    at += 2 + size
    at += 1 + body[at]
    (size,) = struct.unpack_from("!H", body, at)
    end, at = at + 2 + size, at + 2
    extensions: dict[int, bytes] = {}
    while at < end:
        kind, size = struct.unpack_from("!HH", body, at)
        extensions[kind] = body[at + 4 : at + 4 + size]
        at += 4 + size
    return suites, extensions


def numbers(data: bytes) -> list[int]:
    return list(struct.unpack(f"!{len(data) // 2}H", data))


def test_the_suites_are_these_and_no_other(hello) -> None:
    suites, _ = hello
    assert [suite for suite in suites if suite != 0x00FF] == SUITES  # 00FF says that nothing is renegotiated


def test_the_groups_are_these_and_no_other(hello) -> None:
    groups = numbers(hello[1][GROUPS][2:])
    assert groups in ([X25519MLKEM768, X25519, SECP256R1, SECP384R1], [X25519, SECP256R1, SECP384R1])


def test_the_only_version_is_1_3(hello) -> None:
    assert numbers(hello[1][VERSIONS][1:]) == [0x0304]


def test_nothing_is_resumed_or_sent_early(hello) -> None:
    assert not {TICKET, PSK, EARLY} & set(hello[1])
