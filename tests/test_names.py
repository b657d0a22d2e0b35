"""A name that nobody can prove, and an address that nobody can be reached at, are refused where they are written."""

import json

import pytest

from linkerd_proxy import (
    Certify,
    Client,
    Connect,
    Endpoint,
    EndpointsFile,
    Forward,
    MeshPeer,
    RateOverride,
    Static,
    TlsAuthenticated,
)
from linkerd_proxy.address import Address, parse_target
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.names import check_identity, problem_of
from linkerd_proxy.tcp.aim import Aim


@pytest.mark.parametrize(
    "name", ["", "WEB.mesh.local", "a b", "*.mesh.local", "10.0.0.1", "web.mesh.local.", "spiffe://x"]
)
@pytest.mark.parametrize(
    "make",
    [
        Aim,
        MeshPeer,
        lambda name: Endpoint(Address("10.0.0.1", 80), identity=name),
        lambda name: Certify(name, Client() | Connect("127.0.0.1:1"), "ca.pem"),
    ],
)
def test_nobody_can_prove_such_a_name(name, make) -> None:
    assert problem_of(name)
    with pytest.raises(InvalidConfiguration, match=r"is no identity: .*; give a name as its certificate has it"):
        make(name)


@pytest.mark.parametrize("make", [lambda name: TlsAuthenticated([name]), lambda name: RateOverride(5, [name])])
def test_a_policy_is_for_names_that_can_be_proved(make) -> None:
    with pytest.raises(InvalidConfiguration, match="a wildcard names nobody"):
        make("we*.mesh.local")
    with pytest.raises(InvalidConfiguration, match="neither a DNS name nor a SPIFFE ID"):
        make("a b")


def test_policies_compare_dns_names_without_regard_to_case() -> None:
    assert TlsAuthenticated(["WEB.mesh.local"]).identities == ("web.mesh.local",)


def test_who_said_it_is_named() -> None:
    check_identity("web.mesh.local", "x")
    with pytest.raises(InvalidConfiguration, match=r"^--peer-identity 'API' is no identity: it has upper-case letters"):
        check_identity("API", "--peer-identity 'API'")


@pytest.mark.parametrize("make", [parse_target, Connect, Static, Forward])
def test_nobody_is_reached_at_port_0(make) -> None:
    with pytest.raises(InvalidConfiguration, match=r"'10\.0\.0\.1:0' can't be reached: port 0 is none"):
        make("10.0.0.1:0")


async def test_nor_is_an_endpoint_of_a_file(tmp_path) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text(json.dumps({"endpoints": ["10.0.0.1:0"]}))
    with pytest.raises(InvalidConfiguration, match=r"port 0 is none"):
        async with EndpointsFile(path).open():
            raise AssertionError("it was taken")
