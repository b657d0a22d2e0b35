"""Where a proxy finds its identity: a directory, or what the environment tells."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from linkerd_proxy.address import Address, AnyAddress, parse_address
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tls.identity import Identity
from linkerd_proxy.tls.originate import Originate

__all__ = ["PREFIX", "find_identity", "own_name"]

PREFIX = "LINKERD2_PROXY_IDENTITY_"
"""Of Linkerd's variables that say where an identity comes from."""
_AGENT = (f"{PREFIX}SPIRE_WORKLOAD_API_ADDRESS", f"{PREFIX}SPIRE_SOCKET", "SPIFFE_ENDPOINT_SOCKET")
_SERVER = f"{PREFIX}SVC_ADDR"


def find_identity(directory: str | None = None, environment: Mapping[str, str] | None = None) -> Identity | None:
    """Return where the identity comes from, or None if nothing tells.

    In this order: the directory given; Linkerd's authority, if the environment has its address
    (``LINKERD2_PROXY_IDENTITY_SVC_ADDR``, with ``..._LOCAL_NAME``, ``..._TRUST_ANCHORS``, ``..._TOKEN_FILE`` and, for
    its own name, ``..._SVC_NAME``); a SPIFFE agent (``..._SPIRE_WORKLOAD_API_ADDRESS``, ``..._SPIRE_SOCKET`` or
    ``SPIFFE_ENDPOINT_SOCKET``); files in ``LINKERD2_PROXY_IDENTITY_DIR``. What is the same is one object, so that all
    who ask share one identity.

    Args:
        directory: Of ``ca.pem``, ``cert.pem`` and ``key.pem``.
        environment: By default the process's own.

    Raises:
        InvalidConfiguration: if it is told by halves.

    Source: linkerd2-proxy, linkerd/app/src/env.rs.
    """
    if directory is not None:
        return _files(directory)
    environment = os.environ if environment is None else environment
    told = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    name = told.get("LOCAL_NAME") or None
    if environment.get(_SERVER):
        needed = {key: told.get(key, "") for key in ("LOCAL_NAME", "TRUST_ANCHORS")}
        missing = [f"{PREFIX}{key}" for key, value in needed.items() if not value]
        if missing:
            raise InvalidConfiguration(f"{_SERVER} is set, and {' and '.join(missing)} is not: set all of them")
        return _certified(
            needed["LOCAL_NAME"],
            environment[_SERVER],
            told.get("SVC_NAME") or None,
            needed["TRUST_ANCHORS"],
            told.get("TOKEN_FILE") or None,
            _request_in(told.get("DIR")),
        )
    agent = next((environment[variable] for variable in _AGENT if environment.get(variable)), None)
    if agent is not None:
        return _of_agent(agent, name)
    if told.get("DIR"):
        return _files(told["DIR"])
    return None


def own_name(directory: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Return the name of the identity that :func:`find_identity` finds, before it is opened.

    Raises:
        InvalidConfiguration: if nothing tells, as may be with a SPIFFE agent.
    """
    from linkerd_proxy.tls.pem import credentials_from_pem
    from linkerd_proxy.tls.private import read_file

    environment = os.environ if environment is None else environment
    if directory is None:
        named = environment.get(f"{PREFIX}LOCAL_NAME")
        if named:
            return named
        directory = environment.get(f"{PREFIX}DIR")
    if not directory or find_identity(directory) is None:
        raise InvalidConfiguration(f"the proxy's own name is not known: set {PREFIX}LOCAL_NAME to it")
    paths = [Path(directory) / name for name in ("cert.pem", "key.pem", "ca.pem")]
    certificate, key, anchors = ((str(path), read_file(path)) for path in paths)
    return credentials_from_pem(certificate, key, anchors, datetime.now(UTC)).name


def _request_in(directory: str | None) -> str | None:
    """Return the directory if Linkerd's init container has left a key and a request there."""
    try:
        return directory if directory and (Path(directory) / "csr.der").exists() else None
    except OSError as error:
        raise InvalidConfiguration(f"{PREFIX}DIR: cannot look into {directory}: {error.strerror}") from None


@cache
def _files(directory: str) -> Identity:
    from linkerd_proxy.tls.files import Files

    return Files(directory)


@cache
def _of_agent(where: str, name: str | None) -> Identity:
    from linkerd_proxy.mesh.spiffe import spiffe

    return spiffe(where, name=name)


@cache
def _certified(
    name: str, address: str, server: str | None, anchors: str, token_file: str | None, directory: str | None
) -> Identity:
    from linkerd_proxy.tls.certify import Certify

    where = parse_address(address)
    via = _way_to(where, server, anchors)

    def again(own: Identity) -> Stack[Exchange]:
        return Client(protocol="h2") | Originate(own, peer=server) | Connect(where)

    # Renewals prove themselves by the certificate: a token of "authority token" is good for the first one only.
    renew = None if server is None or _is_here(where) else again
    return Certify(
        name, via, anchors, token_file=token_file, renew_via=renew, directory=directory, renewals_send_token=True
    )


def _is_here(where: AnyAddress) -> bool:
    return not isinstance(where, Address) or where.is_loopback


def _way_to(where: AnyAddress, server: str | None, anchors: str) -> Stack[Exchange]:
    client = Client(protocol="h2")
    if _is_here(where):
        return client | Connect(where)  # in the clear on this host, as Linkerd
    if server is None:
        raise InvalidConfiguration(f"{PREFIX}SVC_NAME is not set: set it to the name that {where} proves to have")
    return client | Originate(context=_trusting(anchors), host=server) | Connect(where)


def _trusting(anchors: str) -> ssl.SSLContext:
    """Return a context that trusts only these: there is no certificate yet to prove who asks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if "-----BEGIN" in anchors:
            context.load_verify_locations(cadata=anchors)
        else:
            context.load_verify_locations(anchors)
    except (OSError, ssl.SSLError) as error:
        raise InvalidConfiguration(f"{PREFIX}TRUST_ANCHORS has no readable certificate ({error}): give PEM") from None
    return context
