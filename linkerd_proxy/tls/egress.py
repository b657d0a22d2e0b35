"""The ordinary web's kind of TLS: any trusted authority, and a certificate for the host that was asked for."""

from __future__ import annotations

import ipaddress

from OpenSSL import SSL

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.openssl import OpenSSLEngine
from linkerd_proxy.tls.refusal import Refused
from linkerd_proxy.tls.verify import Verification

try:
    from service_identity import CertificateError, VerificationError
    from service_identity.hazmat import DNS_ID
    from service_identity.pyopenssl import verify_hostname, verify_ip_address
except ImportError:
    raise InvalidConfiguration(
        "Originate(host=...) needs the extra egress: pip install 'linkerd-proxy[egress]'"
    ) from None

__all__ = ["HostEngine"]


class HostEngine(OpenSSLEngine):
    """The client side of a connection to a host: its certificate must hold the name, or the address.

    Args:
        context: Of :func:`~linkerd_proxy.tls.context.egress_context`.
        host: A name, international ones too, or an IP address.
        alpn: What to offer.

    Raises:
        Refused: for a host that can't be in a certificate.
    """

    __slots__ = ("_host", "_is_address")

    def __init__(self, context: SSL.Context, host: str, alpn: tuple[str, ...] = ()) -> None:
        self._host = host
        self._is_address = _is_address(host)
        super().__init__(
            context,
            server=False,
            server_name=None if self._is_address else _as_dns(host),  # RFC 6066 section 3: an address is no SNI
            verification=Verification(named=False),
            alpn=alpn,
        )

    def handshake(self) -> bool:
        """Go on with the handshake, and check the host at its end."""
        if not super().handshake():
            return False
        try:
            if self._is_address:
                verify_ip_address(self._connection, self._host)
            else:
                verify_hostname(self._connection, self._host)
        except (VerificationError, CertificateError) as error:
            raise Refused("host", f"asked for {self._host}") from error
        return True


def _as_dns(name: str) -> str:
    try:
        return DNS_ID(name).hostname.decode("ascii")
    except ValueError as error:  # also of the encoding of international names
        raise Refused("bad_host", f"{name[:300]!r}: {error}") from error


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
