"""Endpoints from a watched file."""

import json
import os

import pytest
import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.endpoint import Add, Endpoint, Remove, Reset
from linkerd_proxy.core.shared import shared
from linkerd_proxy.discover.file import EndpointsFile
from linkerd_proxy.document.tree import InvalidDocument
from linkerd_proxy.document.watch import FileWatch
from linkerd_proxy.errors import InvalidConfiguration

ONE, TWO = Address("10.0.0.1", 80), Address("10.0.0.2", 80)


async def test_endpoints_are_read_with_all_that_is_said_of_them(tmp_path) -> None:
    file = tmp_path / "endpoints.yaml"
    file.write_text(
        """
endpoints:
  - 10.0.0.1:80
  - address: 10.0.0.2:80
    weight: 2
    zone: eu-1a
    identity: web.default
    protocol: http/2
    tagged_port: 4143
    labels: {pod: web-1}
"""
    )
    async with shared(EndpointsFile(file)) as resolution:
        update = await anext(resolution.updates())
    two = Endpoint(TWO, 2.0, "web.default", None, "http/2", 4143, "eu-1a", {"pod": "web-1"})
    assert update == Reset((Endpoint(ONE), two))


async def test_a_file_that_is_renamed_into_place_is_read_within_a_second(tmp_path, autojump_clock) -> None:
    file = tmp_path / "endpoints.json"
    file.write_text('{"endpoints": ["10.0.0.1:80"]}')
    async with shared(EndpointsFile(file)) as resolution:
        updates = resolution.updates()
        assert await anext(updates) == Reset((Endpoint(ONE),))
        new = tmp_path / "new"
        new.write_text('{"endpoints": ["10.0.0.1:80", "10.0.0.2:80"]}')
        new.rename(file)
        assert await anext(updates) == Add((Endpoint(TWO),))
        assert trio.current_time() == pytest.approx(1)


async def test_many_endpoints_are_read_again_as_few_are(tmp_path, autojump_clock) -> None:
    many = [f"10.0.{number >> 8}.{number & 255}:80" for number in range(1000)]
    file = tmp_path / "endpoints.json"
    file.write_text(json.dumps({"endpoints": many}))
    async with shared(EndpointsFile(file)) as resolution:
        updates = resolution.updates()
        first = await anext(updates)
        assert len(first.endpoints) == 1000
        file.write_text(json.dumps({"endpoints": many[1:]}))
        assert await anext(updates) == Remove((Address("10.0.0.0", 80),))
        file.write_text(json.dumps({"endpoints": many}))
        assert await anext(updates) == Add((Endpoint(Address("10.0.0.0", 80)),))


async def test_a_link_that_is_swapped_is_seen(tmp_path, autojump_clock) -> None:
    # As Kubernetes updates a ConfigMap's volume.
    for name, address in (("a", ONE), ("b", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "endpoints.json").write_text(f'{{"endpoints": ["{address}"]}}')
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "a")
    async with shared(EndpointsFile(link / "endpoints.json")) as resolution:
        updates = resolution.updates()
        await anext(updates)
        (tmp_path / "next").symlink_to(tmp_path / "b")
        os.replace(tmp_path / "next", link)
        assert await anext(updates) == Reset((Endpoint(TWO),))


async def test_a_bad_edit_changes_nothing_and_says_which_line(tmp_path, autojump_clock, caplog) -> None:
    file = tmp_path / "endpoints.json"
    file.write_text('{"endpoints": ["10.0.0.1:80", "10.0.0.2:80"]}')
    async with shared(EndpointsFile(file)) as resolution:
        updates = resolution.updates()
        await anext(updates)
        for bad in (
            '{"endpoints": [\n{"adress": "10.0.0.1:80"}]}',
            "{",
            '{"endpoints": ["10.0.0.1:80", "10.0.0.1:80"]}',
        ):
            file.write_text(bad)
            await trio.sleep(3)
        file.unlink()
        await trio.sleep(3)
        with trio.move_on_after(5) as scope:
            await anext(updates)
        assert scope.cancelled_caught
        file.write_text('{"endpoints": ["10.0.0.1:80"]}')
        assert await anext(updates) == Remove((TWO,))
    told = [record.message.removeprefix(str(file)) for record in caplog.records if record.levelname == "WARNING"]
    assert told == [
        f"{problem} (the endpoints stay as they were)"
        for problem in (
            ":2: endpoints[0].adress: there is no such key; did you mean 'address'?",
            ":2: endpoints[0]: the key 'address' is missing: give it a text like '10.0.0.1:80'",
            ":1: the document ends too early: a bracket is not closed, or nothing is there",
            ":1: 10.0.0.1:80 is there twice: give it a weight instead",
            ": it can't be read: No such file or directory",
        )
    ]


async def test_a_file_that_is_being_written_is_left_alone_until_it_is_done(tmp_path, autojump_clock) -> None:
    file = tmp_path / "endpoints.json"
    file.write_text("1")
    watch = FileWatch(file)
    noticed: list[float] = []

    async def wait() -> None:
        await watch.wait_changed()
        noticed.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        for size in range(2, 6):
            await trio.sleep(0.75)
            file.write_text("1" * size)
    assert noticed == [pytest.approx(4)] or noticed == [pytest.approx(5)]


async def test_a_file_that_is_bad_from_the_start_is_an_error(tmp_path) -> None:
    with pytest.raises(InvalidDocument, match="it can't be read"):
        async with shared(EndpointsFile(tmp_path / "none.json")):
            pass


def test_an_impossible_interval_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="interval"):
        EndpointsFile("endpoints.json", interval=0)
