"""Certificates for the cases with TLS: one authority, and one identity for whoever needs one."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

from tests.bench.peers import NAME


def make_certificates(directory: Path) -> Path:
    """Write ``ca.pem``, ``cert.pem`` and ``key.pem`` (ECDSA P-256, as Linkerd's are), once, and return where."""
    where = directory / "certificates"
    if where.exists():
        return where
    where.mkdir()
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    leaf = authority.issue_cert(NAME, key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(str(where / "ca.pem"))
    leaf.private_key_pem.write_to_path(str(where / "key.pem"))
    (where / "key.pem").chmod(0o600)
    for index, part in enumerate(leaf.cert_chain_pems):
        part.write_to_path(str(where / "cert.pem"), append=index > 0)
    return where


def client_context(certificates: Path) -> ssl.SSLContext:
    """Return what a client of the mesh has: TLS 1.3, a certificate of its own, no session to resume."""
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    return context
