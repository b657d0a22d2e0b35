import pytest

from linkerd_proxy.detect.detect import OPAQUE_PORTS
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.commanded import app_address, parse_peer, parse_ports
from linkerd_proxy.mesh.outbound import MeshPeer


@pytest.mark.parametrize(
    ("text", "address"),
    [("9000", "127.0.0.1:9000"), (":9000", "127.0.0.1:9000"), ("10.0.0.5:80", "10.0.0.5:80"), ("unix:/a", "unix:/a")],
)
def test_an_application_that_is_a_port_is_on_this_host(text, address):
    assert app_address(text) == address


@pytest.mark.parametrize(
    ("text", "where", "peer"),
    [
        ("10.0.0.5:80=web.mesh.local", "10.0.0.5:80", MeshPeer("web.mesh.local", 4143)),
        ("10.0.0.5=web.mesh.local@8443", "10.0.0.5", MeshPeer("web.mesh.local", 8443)),
        ("2001:db8::1=web.mesh.local", "2001:db8::1", MeshPeer("web.mesh.local", 4143)),
        ("[2001:db8::1]:80=spiffe://mesh.local/web", "[2001:db8::1]:80", MeshPeer("spiffe://mesh.local/web", 4143)),
    ],
)
def test_a_peer_is_a_destination_an_identity_and_perhaps_a_port(text, where, peer):
    assert parse_peer(text) == (where, peer)


@pytest.mark.parametrize("text", ["", "10.0.0.5:80", "=web", "10.0.0.5:80=", "10.0.0.5:80=web@x", "10.0.0.5:http=web"])
def test_what_is_no_peer_is_told(text):
    with pytest.raises(InvalidConfiguration, match=r"is no peer|no valid port"):
        parse_peer(text)


def test_ports_are_numbers_and_ranges():
    assert parse_ports("25, 8000-8002,") == {25, 8000, 8001, 8002}
    assert parse_ports("") == frozenset()
    assert parse_ports("default") == OPAQUE_PORTS


@pytest.mark.parametrize("text", ["smtp", "0", "70000", "9-8", "1-x", "-5"])
def test_what_is_no_port_is_told(text):
    with pytest.raises(InvalidConfiguration, match="is no port"):
        parse_ports(text)
