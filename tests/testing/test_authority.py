"""The authority issues SPIFFE identities that verify."""

import datetime

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from linkerd_proxy.testing import Authority

ID = "spiffe://example.org/ns/default/sa/web"


def test_an_svid_names_its_identity_and_verifies(authority: Authority) -> None:
    svid = authority.issue_svid(ID)
    leaf = x509.load_pem_x509_certificate(svid.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [ID]
    root = x509.load_pem_x509_certificate(authority.roots)
    PolicyBuilder().store(Store([root])).build_client_verifier().verify(leaf, [])
    assert repr(svid) == f"<Svid {ID}>"
    assert "PRIVATE KEY" in svid.key.decode()


def test_an_expired_one_and_a_strangers_one_do_not_verify(authority: Authority) -> None:
    verifier = PolicyBuilder().store(Store([x509.load_pem_x509_certificate(authority.roots)])).build_client_verifier()
    for svid in (authority.issue_svid(ID, lifetime=-60), Authority().issue_svid(ID)):
        leaf = x509.load_pem_x509_certificate(svid.certificate)
        assert leaf.not_valid_before_utc < leaf.not_valid_after_utc
        with pytest.raises(VerificationError):
            verifier.verify(leaf, [])
    assert datetime.datetime.now(datetime.UTC) > datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def test_what_is_no_spiffe_id_is_refused(authority: Authority) -> None:
    with pytest.raises(ValueError, match="write spiffe://"):
        authority.issue_svid("https://example.org")
