"""Linkerd's identity API: a workload asks the authority for its certificate.

Source: linkerd2-proxy-api, proto/identity.proto. The signing request is DER on the wire, whatever that file says.
"""

from __future__ import annotations

from collections.abc import MutableSequence

from linkerd_proxy.grpc.method import Method
from linkerd_proxy.grpc.schema import Field, Message, blob, nested, repeated, string
from linkerd_proxy.grpc.times import Timestamp

__all__ = ["CERTIFY", "CertifyRequest", "CertifyResponse"]


class CertifyRequest(Message, name="io.linkerd.proxy.identity.CertifyRequest"):
    """Certify this key as that identity."""

    identity: Field[str] = string(1)
    token: Field[bytes] = blob(2)
    """What proves to the authority that the caller is the identity."""
    certificate_signing_request: Field[bytes] = blob(3)
    """PKCS #10, DER."""


class CertifyResponse(Message, name="io.linkerd.proxy.identity.CertifyResponse"):
    """The certificate, DER."""

    leaf_certificate: Field[bytes] = blob(1)
    intermediate_certificates: Field[MutableSequence[bytes]] = repeated(blob(2))
    """From the leaf's issuer upwards, without the trust anchor."""
    valid_until: Field[Timestamp] = nested(3, Timestamp)


CERTIFY = Method("/io.linkerd.proxy.identity.Identity/Certify", CertifyRequest, CertifyResponse)
"""Unary."""
