"""A signing request gives its public key and nothing else, and only to one who has the private one."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.csr import LARGEST, RefusedRequest, requested_key
from linkerd_proxy.tls.leaf import key_usage

NAME = "web.mesh.local"
ID = "spiffe://mesh.local/web"
DER = serialization.Encoding.DER
KEY = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
KOBLITZ = ec.generate_private_key(ec.SECP256K1())
ED = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)
EXPONENT = rsa.generate_private_key(3, 2048)
AUTHORITY = Authority.create("mesh.local")


def names(*values):
    return x509.SubjectAlternativeName(
        [
            value
            if isinstance(value, x509.GeneralName)
            else x509.UniformResourceIdentifier(value)
            if "://" in value
            else x509.DNSName(value)
            for value in values
        ]
    )


def csr(*extensions, key=KEY, subject=(), digest=None):
    """Return a request, DER, that asks for one name unless extensions say otherwise."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    )
    for extension in extensions or (names(NAME),):
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256()
    return builder.sign(key, digest or algorithm).public_bytes(DER)


GOOD = csr()


def with_key_of(victim):
    """A request that has somebody else's public key under our signature: no proof of possession."""
    ours, theirs = (
        key.public_key().public_bytes(DER, serialization.PublicFormat.SubjectPublicKeyInfo) for key in (KEY, victim)
    )
    request = csr()
    assert request.count(ours) == 1
    return request.replace(ours, theirs)


def off_the_curve():
    point = KEY.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return csr().replace(point, point[:-1] + bytes([point[-1] ^ 1]))


def signed_with(algorithm):
    """A request that says it is signed with SHA-1 or MD5, which no library of today makes any more."""
    sha256 = bytes.fromhex("2a864886f70d01010b")
    request = csr(key=RSA)
    assert request.count(sha256) == 1
    return request.replace(sha256, sha256[:-1] + algorithm)


def der(tag, *parts):
    """Return a DER value of at most 65,535 bytes."""
    content = b"".join(parts)
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82, size >> 8, size & 255] if size > 255 else [0x81, size])
    return bytes([tag]) + length + content


def twice():
    """A well signed request whose extensions have the alternative name twice, once in place of a key identifier."""
    request = x509.load_der_x509_csr(csr(names(NAME), x509.SubjectKeyIdentifier(b"x" * 8)))
    # Both object identifiers have three bytes (2.5.29.14 and 2.5.29.17), so the lengths stay right.
    body = request.tbs_certrequest_bytes
    assert body.count(b"\x06\x03\x55\x1d\x0e") == 1
    body = body.replace(b"\x06\x03\x55\x1d\x0e", b"\x06\x03\x55\x1d\x11")
    signature = KEY.sign(body, ec.ECDSA(hashes.SHA256()))
    algorithm = der(0x30, bytes.fromhex("06082a8648ce3d040302"))  # ecdsa-with-SHA256
    made = der(0x30, body, algorithm, der(0x03, b"\0", signature))
    assert x509.load_der_x509_csr(made).is_signature_valid
    return made


ATTACKS = {
    "nothing": b"",
    "garbage": b"\x00" * 100,
    "text": b"give me a certificate",
    "PEM": b"-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n",
    "a certificate": AUTHORITY.certificate.public_bytes(DER),
    "huge": b"\x30\x82\xff\xff" + bytes(65535),
    "too large by one": csr() + bytes(LARGEST + 1 - len(csr())),
    "bytes after its end": csr() + b"\x00",
    "cut": csr()[:-1],
    "a length that lies": b"\x30\x84\xff\xff\xff\xff" + csr()[4:],
    "deep nesting": b"\x30\x80" * 4000,
    "a wrong signature": GOOD[:-1] + bytes([GOOD[-1] ^ 1]),
    "a key that is not the signer's": with_key_of(ec.generate_private_key(ec.SECP256R1())),
    "a point off the curve": off_the_curve(),
    "another name": csr(names("db.mesh.local")),
    "two names": csr(names(NAME, "db.mesh.local")),
    "the name twice": csr(names(NAME, NAME)),
    "the name and an id": csr(names(NAME, ID)),
    "the name and an address": csr(names(NAME, x509.RFC822Name("root@mesh.local"))),
    "no name": csr(x509.BasicConstraints(ca=False, path_length=None)),
    "the name as an id": csr(names(x509.UniformResourceIdentifier(NAME))),
    "the name in upper case": csr(names("WEB.mesh.local")),
    "a trailing dot": csr(names(f"{NAME}.")),
    "a wildcard": csr(names("*.mesh.local")),
    "a NUL": csr(names(x509.DNSName(f"{NAME}\0.evil"))),
    "the name twice in two extensions": twice(),
    "the name in the subject only": csr(
        x509.BasicConstraints(ca=False, path_length=None), subject=[(NameOID.COMMON_NAME, NAME)]
    ),
    "another subject": csr(subject=[(NameOID.COMMON_NAME, "db.mesh.local")]),
    "two subjects": csr(subject=[(NameOID.COMMON_NAME, NAME), (NameOID.COMMON_NAME, "db.mesh.local")]),
    "an organisation": csr(subject=[(NameOID.ORGANIZATION_NAME, "system:masters")]),
    "to be an authority": csr(names(NAME), x509.BasicConstraints(ca=True, path_length=None)),
    "to sign certificates": csr(names(NAME), key_usage(signs_certificates=True)),
    "to sign code": csr(names(NAME), x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])),
    "every use": csr(names(NAME), x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])),
    "name constraints": csr(names(NAME), x509.NameConstraints([x509.DNSName("com")], None)),
    "an unknown extension": csr(names(NAME), x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")),
    "an RSA key of 1024 bits": csr(key=WEAK),
    "the RSA exponent 3": csr(key=EXPONENT),
    "a key on P-384": csr(key=P384),
    "a key on secp256k1": csr(key=KOBLITZ),
    "an Ed448 key": csr(key=ed448.Ed448PrivateKey.generate()),
    "a SHA-1 signature": signed_with(b"\x05"),
    "an MD5 signature": signed_with(b"\x04"),
    "a SHA-224 signature": csr(digest=hashes.SHA224()),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_on_one_line_with_a_remedy(attack):
    with pytest.raises(RefusedRequest, match=r"(: \w+ |asks for)") as refused:
        AUTHORITY.sign(NAME, ATTACKS[attack])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_there_are_many_of_them():
    assert len(ATTACKS) >= 40


@pytest.mark.parametrize("key", [KEY, ED, RSA], ids=["P-256", "Ed25519", "RSA"])
@pytest.mark.parametrize(
    "more",
    [
        [],
        [x509.BasicConstraints(ca=False, path_length=None), key_usage()],
        [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), x509.SubjectKeyIdentifier(b"0123")],
    ],
    ids=["the name alone", "a workload's rights", "one side of TLS"],
)
def test_a_good_request_gets_the_same_leaf_whatever_else_it_asks_for(key, more):
    (leaf,) = AUTHORITY.sign(NAME, csr(names(NAME), *more, key=key))
    assert leaf.public_key() == key.public_key()
    leaf.verify_directly_issued_by(AUTHORITY.certificate)
    ours = AUTHORITY.issue(NAME).chain[0]
    assert [(one.oid, one.critical) for one in leaf.extensions] == [(one.oid, one.critical) for one in ours.extensions]
    for kind in (x509.SubjectAlternativeName, x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage):
        assert leaf.extensions.get_extension_for_class(kind) == ours.extensions.get_extension_for_class(kind)
    assert list(leaf.subject) == []


def test_the_subject_may_repeat_the_name():
    assert AUTHORITY.sign(NAME, csr(subject=[(NameOID.COMMON_NAME, NAME)]))


def test_a_spiffe_id_is_asked_for_as_one():
    (leaf,) = AUTHORITY.sign(ID, csr(names(ID)))
    assert [one.value for one in leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value] == [ID]
    with pytest.raises(RefusedRequest):
        AUTHORITY.sign(ID, csr(names(NAME)))


def test_an_authority_below_sends_its_own_certificate_along():
    below = AUTHORITY.subordinate()
    leaf, issuer = below.sign(NAME, csr())
    leaf.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(AUTHORITY.certificate)


def test_a_name_of_another_domain_is_not_signed():
    with pytest.raises(InvalidConfiguration, match=r"not in the trust domain mesh\.local"):
        AUTHORITY.sign("web.other.local", csr(names("web.other.local")))


@given(st.binary(max_size=300))
def test_bytes_are_refused_and_never_crash(data):
    with pytest.raises(RefusedRequest):
        requested_key(data, NAME)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_never_gets_another_key_or_name(at, mask):
    changed = GOOD[:at] + bytes([GOOD[at] ^ mask]) + GOOD[at + 1 :]
    try:
        key = requested_key(changed, NAME)
    except RefusedRequest:
        return
    assert key == KEY.public_key()  # only where the encoding has slack that changes nothing
