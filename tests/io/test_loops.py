"""Which addresses lead back to the listener that the work came through."""

from contextvars import copy_context

import pytest

from linkerd_proxy.address import parse_address
from linkerd_proxy.io.loops import came_through, would_loop


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
