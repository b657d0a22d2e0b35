"""Which addresses lead back to the listener that the work came through."""

import socket
from contextvars import copy_context

import pytest

from linkerd_proxy.address import Address, parse_address
from linkerd_proxy.io.loops import came_through, is_local, would_loop


@pytest.mark.parametrize(
    ("listener", "address", "loops"),
    [
        ("127.0.0.1:4143", "127.0.0.1:4143", True),
        ("127.0.0.1:4143", "127.0.0.1:4144", False),
        ("127.0.0.1:4143", "127.0.0.2:4143", False),
        ("127.0.0.1:4143", "0.0.0.0:4143", True),  # where the system connects to the loopback
        ("127.0.0.1:4143", "[::ffff:127.0.0.1]:4143", True),
        ("[::ffff:127.0.0.1]:4143", "127.0.0.1:4143", True),
        ("127.0.0.2:4143", "0.0.0.0:4143", False),
        ("[::1]:4143", "[::]:4143", True),
        ("0.0.0.0:4143", "127.0.0.9:4143", True),
        ("0.0.0.0:4143", "0.0.0.0:4143", True),
        ("0.0.0.0:4143", "192.0.2.1:4143", False),
        ("[::]:4143", "[::ffff:127.0.0.1]:4143", True),
        ("[fe80::1%eth0]:4143", "[fe80::1%eth1]:4143", False),
        ("127.0.0.1:4143", "localhost:4143", False),  # asked again when it is looked up
        ("unix:/run/a.sock", "unix:/run/a.sock", True),
        ("unix:/run/a.sock", "127.0.0.1:4143", False),
    ],
)
def test_what_leads_back(listener, address, loops):
    def asked():
        came_through(parse_address(listener))
        return would_loop(parse_address(address))

    assert copy_context().run(asked) is loops


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:80", True),
        ("127.1.2.3:80", True),
        ("[::1]:80", True),
        ("[::ffff:127.0.0.1]:80", True),
        ("0.0.0.0:80", True),
        ("[::]:80", True),
        ("169.254.169.254:80", True),  # a cloud's metadata service
        ("[fe80::1%lo]:80", True),
        ("224.0.0.1:80", True),
        ("[ff02::1]:80", True),
        ("unix:/run/a.sock", True),
        ("192.0.2.1:80", False),
        ("10.0.0.1:80", False),
        ("[2001:db8::1]:80", False),
        ("localhost:80", False),  # asked again when it is looked up
    ],
)
def test_what_is_on_this_host(address, local):
    assert is_local(parse_address(address)) is local


def test_this_hosts_own_addresses_are_local():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this host has no way to anywhere")
        own = probe.getsockname()[0]
    assert is_local(Address(own, 80))
