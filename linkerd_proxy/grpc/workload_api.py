"""The part of the SPIFFE Workload API that serves X.509 identities.

Source: spiffe/spiffe, standards/SPIFFE_Workload_API.md and workloadapi.proto, which has no package.
"""

from __future__ import annotations

from collections.abc import MutableMapping, MutableSequence

from linkerd_proxy.grpc.method import Method
from linkerd_proxy.grpc.schema import Field, Message, blob, mapping, nested, repeated, string

__all__ = ["FETCH_X509_SVID", "SECURITY_HEADER", "X509Svid", "X509SvidRequest", "X509SvidResponse"]

SECURITY_HEADER = ("workload.spiffe.io", "true")
"""The metadata that every call carries, so that a web page can't be made to ask (section 4.1 of the standard)."""


class X509SvidRequest(Message, name="X509SVIDRequest"):
    """Has no fields: the server knows its caller by the socket."""


class X509Svid(Message, name="X509SVID"):
    """One identity of the workload."""

    spiffe_id: Field[str] = string(1)
    x509_svid: Field[bytes] = blob(2)
    """The certificates, DER, the leaf first."""
    x509_svid_key: Field[bytes] = blob(3)
    """The key, PKCS #8, DER."""
    bundle: Field[bytes] = blob(4)
    """The trust anchors of the identity's own trust domain, DER, one after the other."""
    hint: Field[str] = string(5)


class X509SvidResponse(Message, name="X509SVIDResponse"):
    """All identities of the workload, and whom to trust. Each message replaces the one before."""

    svids: Field[MutableSequence[X509Svid]] = repeated(nested(1, X509Svid))
    crl: Field[MutableSequence[bytes]] = repeated(blob(2))
    federated_bundles: Field[MutableMapping[str, bytes]] = mapping(3, string(1), blob(2))
    """The trust anchors of other trust domains, by their SPIFFE ID."""


FETCH_X509_SVID = Method("/SpiffeWorkloadAPI/FetchX509SVID", X509SvidRequest, X509SvidResponse)
"""Server-streaming: a message at once, and one at each change."""
