"""pyOpenSSL's inside: used only where it is as known, whatever a release of it may change."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from OpenSSL import SSL

from linkerd_proxy.core.background import open_background
from linkerd_proxy.io.streams import SocketStream
from linkerd_proxy.tls import context, direct
from linkerd_proxy.tls.context import mesh_context
from linkerd_proxy.tls.handshake import shake
from linkerd_proxy.tls.openssl import OpenSSLEngine
from linkerd_proxy.tls.public import Public
from linkerd_proxy.tls.stream import TlsStream
from linkerd_proxy.tls.verify import Verification
from tests.io.conftest import tcp_sockets
from tests.tls.conftest import API, WEB, both


class Changed:
    """A library in which one name is other than it was, or gone."""

    def __init__(self, name, replacement=None):
        self.__dict__.update(name=name, replacement=replacement, real=SSL._lib)

    def __getattr__(self, name):
        if name != self.name:
            return getattr(self.real, name)
        if self.replacement is None:
            raise AttributeError(name)
        return self.replacement(getattr(self.real, name))


def needs_more(_):
    return lambda _one, _two, _three, _four: 1


def keyword_only(_):
    return lambda **_: 1


def gives_bytes(_):
    return lambda *_: b""


def says_nothing(_):
    return lambda *_: 0


def fresh(monkeypatch):
    """Import the two modules anew, as they are with what is patched; return the engine that connections get."""
    for name in ("direct", "openssl"):
        spec = importlib.util.find_spec(f"linkerd_proxy.tls.{name}")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module.OpenSSLEngine


def is_fallback(engine):
    return issubclass(engine, Public)


def test_as_it_is_now_it_is_used(monkeypatch):
    assert direct.is_possible()
    assert issubclass(OpenSSLEngine, direct.Direct)
    assert not is_fallback(fresh(monkeypatch))


@pytest.mark.parametrize("name", direct._FUNCTIONS)
def test_a_function_that_is_gone(monkeypatch, name):
    monkeypatch.setattr(SSL, "_lib", Changed(name))
    assert is_fallback(fresh(monkeypatch))


@pytest.mark.parametrize("name", ["_lib", "_ffi"])
def test_a_library_that_is_gone(monkeypatch, name):
    monkeypatch.delattr(SSL, name)
    assert is_fallback(fresh(monkeypatch))


@pytest.mark.parametrize("change", [needs_more, keyword_only, gives_bytes, says_nothing])
@pytest.mark.parametrize("name", [name for name in direct._FUNCTIONS if "ERROR_" not in name])
def test_a_function_that_takes_or_gives_something_else(monkeypatch, name, change):
    monkeypatch.setattr(SSL, "_lib", Changed(name, change))
    assert is_fallback(fresh(monkeypatch))


@pytest.mark.parametrize("name", ["SSL_ERROR_WANT_READ", "SSL_ERROR_ZERO_RETURN"])
def test_a_number_that_is_something_else(monkeypatch, name):
    monkeypatch.setattr(SSL, "_lib", Changed(name, lambda _: "a word"))
    assert is_fallback(fresh(monkeypatch))


@pytest.mark.parametrize("change", ["gone", "needs more", "a property"])
def test_the_way_to_errors_is_another(monkeypatch, change):
    if change == "gone":
        monkeypatch.delattr(SSL.Connection, "_raise_ssl_error")
    elif change == "needs more":
        monkeypatch.setattr(SSL.Connection, "_raise_ssl_error", lambda _self, _ssl, _result, _why: None)
    else:
        monkeypatch.setattr(SSL.Connection, "_raise_ssl_error", property(lambda _self: "text"))
    assert is_fallback(fresh(monkeypatch))


@pytest.mark.parametrize("part", ["_ssl", "_into_ssl", "_from_ssl"])
@pytest.mark.parametrize("change", ["gone", "another type"])
def test_a_part_of_a_connection_is_another(monkeypatch, part, change):
    class Connection(SSL.Connection):
        def __getattribute__(self, name):
            if name != part or sys._getframe(1).f_globals["__name__"].startswith("OpenSSL"):
                return super().__getattribute__(name)
            if change == "gone":
                raise AttributeError(name)
            return object()

    monkeypatch.setattr(SSL, "Connection", Connection)
    assert is_fallback(fresh(monkeypatch))


async def test_the_fallback_carries_the_same_bytes(monkeypatch, issuer):
    monkeypatch.setattr(SSL, "_lib", Changed("SSL_write", needs_more))
    engine = fresh(monkeypatch)
    monkeypatch.undo()
    assert is_fallback(engine)
    client = engine(
        mesh_context(issuer.credentials(API), "client"), server=False, server_name=WEB, verification=Verification(WEB)
    )
    server = engine(mesh_context(issuer.credentials(WEB), "server"), server=True, verification=Verification())
    one, other = map(SocketStream, tcp_sockets())
    async with both(shake(one, client), shake(other, server)) as streams, open_background() as nursery:
        assert all(isinstance(stream, TlsStream) for stream in streams)
        data = bytes(range(256)) * 1000
        nursery.start_soon(streams[0].send_all, data)
        got = b""
        while len(got) < len(data):
            got += await streams[1].receive_some()
        assert got == data
    for stream in streams:
        await stream.aclose()


@pytest.mark.parametrize("change", [None, needs_more, keyword_only, says_nothing])
def test_the_list_of_groups_is_left_to_openssl_where_it_cant_be_set(monkeypatch, issuer, change):
    monkeypatch.setattr(SSL, "_lib", Changed("SSL_CTX_set1_curves_list", change))
    context._set_groups(SSL.Context(SSL.TLS_METHOD))
    assert isinstance(mesh_context(issuer.credentials(API), "client"), SSL.Context)


def test_a_context_that_is_other_inside_keeps_openssls_groups():
    context._set_groups(object())
