"""What the authority issues verifies with OpenSSL and with another verifier, and says exactly what it must."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from linkerd_proxy.errors import InvalidConfiguration, NoCredentials
from linkerd_proxy.names import problem_of
from linkerd_proxy.tls.authority import Authority, fingerprint
from linkerd_proxy.tls.identity import Given
from linkerd_proxy.tls.store import to_pem

NAMES = [
    "web.mesh.local",
    "web.shop.serviceaccount.identity.linkerd.mesh.local",
    "spiffe://mesh.local/ns/shop/sa/web",
]


class Clock:
    def __init__(self):
        self.now = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def root(clock):
    return Authority.create("mesh.local", now=clock)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def accepted(credentials, *, at, anchors=None):
    builder = PolicyBuilder().store(Store(list(anchors or credentials.anchors))).time(at)
    for verifier in (builder.build_client_verifier(),):
        verifier.verify(credentials.chain[0], list(credentials.chain[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_a_leaf_has_one_critical_name_and_no_rights_but_a_handshakes(root, clock, name):
    made = root.issue(name)
    (leaf,) = made.chain
    names = extension(leaf, x509.SubjectAlternativeName)
    assert names.critical
    assert [one.value for one in names.value] == [name]
    assert isinstance(next(iter(names.value)), x509.UniformResourceIdentifier) == name.startswith("spiffe")
    assert list(leaf.subject) == []
    basic = extension(leaf, x509.BasicConstraints)
    assert (basic.critical, basic.value.ca) == (True, False)
    usage = extension(leaf, x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert set(extension(leaf, x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    issuer_key = extension(root.certificate, x509.SubjectKeyIdentifier).value.digest
    assert extension(leaf, x509.AuthorityKeyIdentifier).value.key_identifier == issuer_key
    assert extension(leaf, x509.SubjectKeyIdentifier).value.digest != issuer_key
    assert len(list(leaf.extensions)) == 6
    assert (made.name, made.anchors) == (name, root.anchors)
    assert made.key.public_key() == leaf.public_key()
    assert leaf.not_valid_before_utc == clock.now - timedelta(seconds=60)
    assert leaf.not_valid_after_utc == clock.now + timedelta(days=1)
    assert leaf.serial_number.bit_length() > 64


@pytest.mark.parametrize("name", NAMES)
def test_it_verifies_now_and_not_before_nor_after_nor_elsewhere(root, clock, name):
    for authority in (root, root.subordinate()):
        made = authority.issue(name)
        accepted(made, at=clock.now)
        for at in (clock.now - timedelta(seconds=61), clock.now + timedelta(days=1, seconds=1)):
            with pytest.raises(VerificationError):
                accepted(made, at=at)
        with pytest.raises(VerificationError):
            accepted(made, at=clock.now, anchors=Authority.create("mesh.local", now=clock).anchors)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl: apt install openssl")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("below", [False, True], ids=["root", "below"])
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_verifies_it_strictly(tmp_path, name, below, purpose):
    root = Authority.create("mesh.local")
    made = (root.subordinate() if below else root).issue(name)
    (tmp_path / "ca.pem").write_bytes(to_pem(made.anchors))
    (tmp_path / "cert.pem").write_bytes(to_pem(made.chain))
    verify = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem"]
    done = subprocess.run(
        [*verify, "-untrusted", "cert.pem", "cert.pem"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "cert.pem: OK\n"), done.stderr
    shown = subprocess.run(
        ["openssl", "x509", "-in", "cert.pem", "-noout", "-text", "-fingerprint", "-sha256"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    kind = "URI" if name.startswith("spiffe") else "DNS"
    assert f"X509v3 Subject Alternative Name: critical\n                {kind}:{name}\n" in shown
    assert "CA:FALSE" in shown
    assert "Subject: \n" in shown
    assert shown.strip().endswith(f"={fingerprint(made.chain[0]).removeprefix('SHA256:')}")


def test_a_root_says_whose_it_is_and_may_have_one_authority_below(root, clock):
    certificate = root.certificate
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert [one.value for one in names] == ["spiffe://mesh.local"]
    assert extension(certificate, x509.BasicConstraints).value.path_length == 1
    assert certificate.not_valid_after_utc == clock.now + timedelta(days=3650)
    below = root.subordinate()
    assert extension(below.certificate, x509.BasicConstraints).value.path_length == 0
    assert below.anchors == root.anchors
    assert below.issue("web.mesh.local").chain[1:] == (below.certificate,)
    with pytest.raises(InvalidConfiguration, match="make the new one below the root"):
        below.subordinate()


def test_two_roots_of_one_domain_have_subjects_of_their_own(root, clock):
    # Verifiers look issuers up by name: both are anchors while one follows the other.
    other = Authority.create("mesh.local", now=clock)
    assert other.certificate.subject != root.certificate.subject
    for one in (root, other):
        accepted(one.issue("web.mesh.local"), at=clock.now, anchors=[*root.anchors, *other.anchors])


def test_nothing_outlives_its_issuer(clock):
    root = Authority.create("mesh.local", lifetime=3600, now=clock)
    below = root.subordinate(lifetime=7200)
    assert below.not_after == root.not_after
    assert below.issue("web.mesh.local").not_after == root.not_after
    clock.pass_(3600)
    for act in (lambda: root.issue("web.mesh.local"), below.check_valid, root.subordinate):
        with pytest.raises(NoCredentials, match=r"has expired; make a new one"):
            act()
    clock.pass_(-7200)
    with pytest.raises(NoCredentials, match="not valid yet; correct this host's clock"):
        root.issue("web.mesh.local")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "web",
        "mesh.local",
        ".mesh.local",
        "web.other.local",
        "webmesh.local",
        "web.mesh.local.",
        "Web.mesh.local",
        "*.mesh.local",
        "web..mesh.local",
        "-web.mesh.local",
        "web.mesh.local\0.evil",
        "wéb.mesh.local",
        f"{'a' * 64}.mesh.local",
        f"{'a.' * 130}mesh.local",
        "spiffe://mesh.local",
        "spiffe://mesh.local/",
        "spiffe://mesh.local/web/",
        "spiffe://mesh.local/../web",
        "spiffe://mesh.local//web",
        "spiffe://Mesh.local/web",
        "spiffe://other.local/web",
        "spiffe://mesh.local.evil/web",
        "spiffe://mesh.local:80/web",
        "spiffe://mesh.local/web?a",
        "spiffe://mesh.local/we%62",
        "https://mesh.local/web",
        f"spiffe://mesh.local/{'a' * 3000}",
    ],
)
def test_a_name_of_another_domain_or_none_at_all_is_refused(root, name):
    with pytest.raises(InvalidConfiguration, match=r"can't be issued, .*: give a name as web\.mesh\.local") as refused:
        root.issue(name)
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("domain", ["", "Mesh.local", "mesh.local.", "10.0.0.1", "spiffe://mesh.local", "a b", "*.x"])
def test_what_is_no_trust_domain_is_refused(domain):
    with pytest.raises(InvalidConfiguration, match="is no trust domain"):
        Authority.create(domain)


def test_a_long_trust_domain_is_one_too(clock):
    domain = ".".join(["a" * 60] * 3)
    made = Authority.create(domain, now=clock).issue(f"web.{domain}")
    accepted(made, at=clock.now)


@pytest.mark.parametrize("lifetime", [0, -1, 0.5, float("nan"), float("inf")])
def test_a_lifetime_must_be_one(root, lifetime):
    with pytest.raises(InvalidConfiguration, match="lifetime"):
        root.issue("web.mesh.local", lifetime=lifetime)
    with pytest.raises(InvalidConfiguration, match="lifetime"):
        Authority.create(lifetime=lifetime)


def test_no_repr_shows_a_key(root):
    assert repr(root) == "<Authority of mesh.local until 2036-11-22T12:00:00Z>"
    assert "PRIVATE" not in repr(root.issue("web.mesh.local"))


async def test_what_it_issues_is_an_identity(root):
    async with Given(root.issue("web.mesh.local")).open() as live:
        assert live.require().name == "web.mesh.local"
        assert problem_of(live.name) is None
