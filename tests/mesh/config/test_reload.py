"""Configurations that change while they serve: nothing is lost, and what is bad changes nothing."""

import json
import logging
from contextlib import asynccontextmanager

import pytest
import trio

from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Request
from linkerd_proxy.core.stack import opened
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.mesh.config.configuration import Configuration, Configured, Shown
from linkerd_proxy.mesh.config.doors import Doors
from linkerd_proxy.mesh.config.read import read_config
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.testing import call, http_origin, serving, tcp_origin
from tests.mesh.config.asking import Asking


def write(path, **listeners) -> None:
    """Write a configuration; each listener is its entry, each backend an address."""
    backends = listeners.pop("backends")
    entries = {name: {"endpoints": [str(one)]} for name, one in backends.items()}
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"listeners": listeners, "backends": entries}))
    temporary.rename(path)


WEB = {"address": "127.0.0.1:0", "protocol": "http", "backend_refs": ["web"]}
RAW = {"address": "127.0.0.1:0", "protocol": "tcp", "backend_refs": ["raw"]}


@asynccontextmanager
async def served(path, drain=None):
    """Serve a file inside the block; yield the configuration and its doors."""
    document = read_config(path)
    doors = Doors(drain or Drain(5))
    async with doors.changing_to(document) as bound:
        configuration = Configuration(path, document, bound=bound, listening=doors)
    async with trio.open_nursery() as nursery, opened(configuration.swap) as service:
        await nursery.start(doors.serve, service)
        yield configuration, doors
        nursery.cancel_scope.cancel()


def at(doors, name):
    return doors.bound[name][0]


async def ask_http1(address, path="/x"):
    """Ask on a connection of its own."""
    request = Request("GET", path, authority="x")
    async with opened(Client() | Connect(address)) as client, call(client, request) as response:
        return response.status, await response.body.read()


# --- nothing is lost -----------------------------------------------------------------------------


async def test_twenty_reloads_under_load_lose_no_request_of_any_protocol(tmp_path) -> None:
    path = tmp_path / "proxy.json"
    async with http_origin() as web, tcp_origin() as raw:
        write(path, web=WEB, raw=RAW, backends={"web": web.address, "raw": raw.address})
        async with served(path) as (configuration, doors):
            asking = Asking()
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(asking.http1, at(doors, "web"))
                    nursery.start_soon(asking.http2, at(doors, "web"))
                    nursery.start_soon(asking.tcp, at(doors, "raw"))
                nursery.start_soon(asking.one_tcp_connection, at(doors, "raw"))
                for _ in range(20):
                    before = asking.count
                    while asking.count < before + 20:
                        await trio.lowlevel.checkpoint()
                    assert await configuration.reload()
                asking.done = True
            assert configuration.reloads == 20
            assert asking.count >= 400


async def test_a_change_is_served_by_at_once(tmp_path) -> None:
    path = tmp_path / "proxy.json"
    async with http_origin() as web:
        write(path, web=WEB, backends={"web": web.address})
        async with served(path) as (configuration, doors):
            assert await ask_http1(at(doors, "web")) == (200, b"GET /x")
            redirect = {"filters": [{"type": "RequestRedirect", "path": "/y"}]}
            write(path, web=WEB | {"routes": [{"rules": [redirect]}]}, backends={"web": web.address})
            assert await configuration.reload()
            assert (await ask_http1(at(doors, "web")))[0] == 302


# --- listeners -----------------------------------------------------------------------------------


async def test_listeners_come_go_and_keep_their_sockets(tmp_path) -> None:
    path = tmp_path / "proxy.json"
    async with http_origin() as web:
        backends = {"web": web.address}
        write(path, one=WEB, two=WEB, backends=backends)
        async with served(path) as (configuration, doors):
            one, two = at(doors, "one"), at(doors, "two")
            write(path, one=WEB, three=WEB, backends=backends)
            assert await configuration.reload()
            assert at(doors, "one") == one
            assert await ask_http1(at(doors, "three")) == (200, b"GET /x")
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream(two.host, two.port)
            renamed = WEB | {"address": str(one)}
            write(path, other=renamed, backends=backends)
            assert not await configuration.reload()  # its socket is still the one of "one", which had port 0
            assert "cannot listen on" in configuration.problem
            assert await ask_http1(one) == (200, b"GET /x")


async def test_the_grace_is_the_files_unless_somebody_else_says(tmp_path) -> None:
    path = tmp_path / "proxy.json"
    write(path, web=WEB, backends={"web": "127.0.0.1:1"})
    drain = Drain(5)
    async with served(path, drain) as (configuration, _):
        document = json.loads(path.read_text()) | {"grace": "7s"}
        path.write_text(json.dumps(document))
        assert await configuration.reload()
        assert (configuration.swap.grace, drain.grace) == (7, 7)
    configuration = Configuration(path, grace=3)
    assert await configuration.reload()
    assert configuration.swap.grace == 3


async def test_a_port_that_is_taken_leaves_everything_as_it_was(tmp_path) -> None:
    path = tmp_path / "proxy.json"
    async with http_origin() as web:
        backends = {"web": web.address}
        write(path, one=WEB, backends=backends)
        async with served(path) as (configuration, doors):
            taken = WEB | {"address": str(web.address)}
            write(path, one=WEB, two=WEB, three=taken, backends=backends)
            assert not await configuration.reload()
            assert list(doors.bound) == ["one"]
            assert await ask_http1(at(doors, "one")) == (200, b"GET /x")


async def test_a_drain_ends_every_listener(tmp_path) -> None:
    path = tmp_path / "proxy.json"
    drain = Drain(5)
    async with http_origin() as web:
        write(path, one=WEB, two=WEB, backends={"web": web.address})
        document = read_config(path)
        doors = Doors(drain)
        async with doors.changing_to(document) as bound:
            configuration = Configuration(path, document, bound=bound, listening=doors)
        async with opened(configuration.swap) as service, trio.open_nursery() as nursery:
            await nursery.start(doors.serve, service)
            drain.start()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(bound["one"][0].host, bound["one"][0].port)


# --- what is bad ---------------------------------------------------------------------------------


def reloads(result) -> float:
    return current_registry().counter("config_reloads_total", "", result=result).value


async def test_a_bad_file_changes_nothing_and_is_one_line_in_the_log(tmp_path, caplog) -> None:
    path = tmp_path / "proxy.json"
    async with http_origin() as web:
        write(path, web=WEB, backends={"web": web.address})
        async with served(path) as (configuration, doors):
            stack = configuration.swap.stack
            write(path, web=WEB | {"bogus": 1, "protocol": "x"}, backends={})
            with caplog.at_level(logging.ERROR, "linkerd_proxy"):
                assert not await configuration.reload()
            (record,) = caplog.records
            assert "nothing has changed: " in record.message
            assert "linkerd-proxy check" in record.message
            assert configuration.swap.stack is stack
            assert await ask_http1(at(doors, "web")) == (200, b"GET /x")
            assert (reloads("good"), reloads("bad")) == (0, 1)
            assert "its newest version was refused" in str(Shown(configuration))
            write(path, web=WEB, backends={"web": web.address})
            assert await configuration.reload()
            assert (reloads("good"), reloads("bad")) == (1, 1)
            assert "refused" not in str(Shown(configuration))


async def test_a_stack_that_does_not_open_changes_nothing(tmp_path) -> None:
    path = tmp_path / "proxy.json"
    async with http_origin() as web:
        write(path, web=WEB, backends={"web": web.address})
        async with served(path) as (configuration, doors):
            document = json.loads(path.read_text())
            document["identity"] = {"directory": "nowhere"}
            document["listeners"]["web"]["tls"] = {}
            path.write_text(json.dumps(document))
            assert not await configuration.reload()
            assert "nowhere/cert.pem" in configuration.problem
            assert await ask_http1(at(doors, "web")) == (200, b"GET /x")


async def test_discoveries_that_stay_the_same_are_the_same_objects(tmp_path) -> None:
    path = tmp_path / "proxy.json"
    async with http_origin() as web:
        write(path, web=WEB, backends={"web": web.address})
        configuration = Configuration(path)
        kept = dict(configuration._kept._known)
        assert kept
        await configuration.reload()
        assert {id(one) for one in kept} == {id(one) for one in configuration._kept._known}


# --- the file is followed ------------------------------------------------------------------------


async def test_a_file_that_changes_is_read_again_when_it_was_left_alone(tmp_path, autojump_clock) -> None:
    path = tmp_path / "proxy.json"
    backends = {"web": "127.0.0.1:1"}
    write(path, web=WEB, backends=backends)
    configuration = Configuration(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(configuration.follow)
        await trio.sleep(10.5)
        assert configuration.reloads == 0
        write(path, web=WEB | {"protocol": "tcp"}, backends=backends)
        await trio.sleep(1.1)
        assert configuration.reloads == 0
        await trio.sleep(1)
        assert configuration.reloads == 1
        await trio.sleep(10)
        assert configuration.reloads == 1
        nursery.cancel_scope.cancel()


async def test_serving_a_file_from_python(tmp_path) -> None:
    path = tmp_path / "proxy.json"
    async with http_origin() as web:
        write(path, web=WEB, backends={"web": web.address})
        proxy = Configured(path)
        assert str(proxy).startswith(f"Configured('{path}')\n└─ now: ")
        async with serving(proxy) as address:
            assert await ask_http1(address) == (200, b"GET /x")


async def test_where_somebody_else_has_the_listeners_they_must_stay(tmp_path) -> None:
    path = tmp_path / "proxy.json"
    write(path, web=WEB, backends={"web": "127.0.0.1:1"})
    configuration = Configuration(path)
    write(path, web=WEB | {"address": "127.0.0.1:1"}, backends={"web": "127.0.0.1:1"})
    assert not await configuration.reload()
    assert "takes a restart" in configuration.problem


async def test_a_file_that_is_none_does_not_open(tmp_path) -> None:
    with pytest.raises(InvalidConfiguration, match="can't be read"):
        async with opened(Configured(tmp_path / "none.json")):
            pass
