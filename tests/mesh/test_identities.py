"""Where an identity is found, in which order, and what is wrong with half of it."""

from __future__ import annotations

import pytest

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.identities import PREFIX, find_identity, own_name
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.certify import Certify
from linkerd_proxy.tls.files import Files
from linkerd_proxy.tls.store import to_pem, write_identity
from linkerd_proxy.tls.workload_api import Spiffe


@pytest.fixture(scope="module")
def authority():
    return Authority.create("mesh.local")


@pytest.fixture
def directory(authority, tmp_path):
    write_identity(tmp_path / "web", authority.issue("web.mesh.local"))
    return str(tmp_path / "web")


@pytest.fixture
def linkerd(authority):
    return {
        f"{PREFIX}SVC_ADDR": "127.0.0.1:8080",
        f"{PREFIX}LOCAL_NAME": "web.mesh.local",
        f"{PREFIX}TRUST_ANCHORS": to_pem(authority.anchors).decode(),
        f"{PREFIX}TOKEN_FILE": "/var/run/token",
    }


def test_nothing_told_is_none():
    assert find_identity(None, {}) is None
    assert find_identity(None, {f"{PREFIX}DIR": "", "SPIFFE_ENDPOINT_SOCKET": "", f"{PREFIX}SVC_ADDR": ""}) is None


def test_the_directory_given_comes_first(directory, linkerd):
    assert find_identity(directory, linkerd) == Files(directory)
    assert find_identity(directory, {}) is find_identity(directory, linkerd)  # one object, that all share


def test_then_linkerds_authority(linkerd):
    found = find_identity(None, linkerd | {"SPIFFE_ENDPOINT_SOCKET": "unix:///agent", f"{PREFIX}DIR": "/web"})
    assert isinstance(found, Certify)
    assert (found.name, found.token_file, found.directory) == ("web.mesh.local", "/var/run/token", None)
    assert "Connect('127.0.0.1:8080')" in str(found.via)
    assert "Originate" not in str(found.via)


def test_elsewhere_it_must_prove_its_name(linkerd):
    away = linkerd | {f"{PREFIX}SVC_ADDR": "identity.linkerd:8080", f"{PREFIX}SVC_NAME": "identity.mesh.local"}
    found = find_identity(None, away)
    assert isinstance(found, Certify)
    assert "host='identity.mesh.local'" in str(found.via)


def test_what_linkerds_init_container_left_is_used(linkerd, tmp_path):
    (tmp_path / "csr.der").write_bytes(b"")
    found = find_identity(None, linkerd | {f"{PREFIX}DIR": str(tmp_path)})
    assert isinstance(found, Certify)
    assert found.directory == str(tmp_path)


def test_a_directory_that_cannot_be_looked_into_is_told(linkerd):
    with pytest.raises(InvalidConfiguration, match="cannot look into x"):
        find_identity(None, linkerd | {f"{PREFIX}DIR": "x" * 300})


@pytest.mark.parametrize(
    "variable", ["SPIFFE_ENDPOINT_SOCKET", f"{PREFIX}SPIRE_WORKLOAD_API_ADDRESS", f"{PREFIX}SPIRE_SOCKET"]
)
def test_then_a_spiffe_agent(variable, directory):
    name = "spiffe://mesh.local/web"
    found = find_identity(
        None, {variable: "unix:///run/a.sock", f"{PREFIX}LOCAL_NAME": name, f"{PREFIX}DIR": directory}
    )
    assert isinstance(found, Spiffe)
    assert name in repr(found)


def test_then_files(directory):
    assert find_identity(None, {f"{PREFIX}DIR": directory}) == Files(directory)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"LOCAL_NAME": ""}, "LOCAL_NAME is not: set all of them"),
        ({"TRUST_ANCHORS": ""}, "TRUST_ANCHORS is not: set all of them"),
        ({"SVC_ADDR": "nonsense"}, "'nonsense' has no port"),
        ({"SVC_ADDR": "identity:8080"}, "SVC_NAME is not set"),
        (
            {"SVC_ADDR": "identity:80", "SVC_NAME": "x.y", "TRUST_ANCHORS": "-----BEGIN rubbish"},
            "no readable certificate",
        ),
        ({"SVC_ADDR": "identity:80", "SVC_NAME": "x.y", "TRUST_ANCHORS": "/nowhere"}, "no readable certificate"),
    ],
)
def test_half_a_configuration_is_told_in_one_line(linkerd, change, told):
    environment = linkerd | {f"{PREFIX}{key}": value for key, value in change.items()}
    with pytest.raises(InvalidConfiguration) as raised:
        find_identity(None, environment)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_own_name_is_known_before_anything_is_opened(directory, linkerd):
    assert own_name(directory, {}) == "web.mesh.local"
    assert own_name(None, {f"{PREFIX}DIR": directory}) == "web.mesh.local"
    assert own_name(None, linkerd) == "web.mesh.local"
    with pytest.raises(InvalidConfiguration, match="own name is not known"):
        own_name(None, {"SPIFFE_ENDPOINT_SOCKET": "unix:///agent"})
