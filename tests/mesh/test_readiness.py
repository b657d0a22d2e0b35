"""Readiness follows the identity: off until certified, on until the last certificate has expired."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import trio

from linkerd_proxy.core.shared import hosting, shared
from linkerd_proxy.mesh.readiness import follow_identity
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.identity import Identity, LiveIdentity

START = datetime(2030, 1, 1, tzinfo=UTC)


def wall_clock():
    return START + timedelta(seconds=trio.current_time() - BEGUN[0])


BEGUN = [0.0]


@dataclass(frozen=True, eq=False)
class Manual(Identity):
    live: LiveIdentity = field(default_factory=lambda: LiveIdentity("web.mesh.local"))

    @asynccontextmanager
    async def open(self):
        yield self.live


@asynccontextmanager
async def following():
    """Yield a live identity, and when readiness turned to what."""
    BEGUN[0] = trio.current_time()
    identity = Manual()
    told: list[tuple[int, bool]] = []

    def tell(ready):
        if not told or told[-1][1] != ready:
            told.append((round(trio.current_time() - BEGUN[0]), ready))

    async def run():
        await follow_identity(identity, tell, now=wall_clock)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield identity.live, told
        nursery.cancel_scope.cancel()


def certificate(lifetime):
    authority = Authority.create("mesh.local", now=wall_clock)
    return authority.issue("web.mesh.local", lifetime=lifetime)


async def test_it_is_off_until_the_first_certificate_and_reminds(autojump_clock, caplog):
    caplog.set_level(logging.WARNING, "linkerd_proxy")
    async with following() as (live, told):
        await trio.sleep(100)
        assert told == [(0, False)]
        assert caplog.text.count("web.mesh.local has no certificate yet") == 7  # at once, and every 15 s
        live.publish(certificate(3600))
        await trio.sleep(1)
        assert told == [(0, False), (100, True)]


async def test_it_goes_off_when_the_certificate_expires_and_on_with_the_next(autojump_clock, caplog):
    async with following() as (live, told):
        live.publish(certificate(3600))
        await trio.sleep(5000)
        assert told == [(0, True), (3600, False)]
        assert "the certificate of web.mesh.local expired at 2030-01-01T01:00:00Z" in caplog.text
        live.publish(certificate(3600))
        await trio.sleep(1)
        assert told[-1] == (5000, True)


async def test_renewed_in_time_it_stays_on(autojump_clock):
    async with following() as (live, told):
        live.publish(certificate(3600))
        for _ in range(5):
            await trio.sleep(2500)
            live.publish(certificate(3600))
        await trio.sleep(1)
        assert told == [(0, True)]


async def test_it_shares_the_identity_with_the_layers_that_name_it(autojump_clock):
    BEGUN[0] = trio.current_time()
    opened = []

    @dataclass(frozen=True, eq=False)
    class Counting(Manual):
        @asynccontextmanager
        async def open(self):
            opened.append(self)
            yield self.live

    identity = Counting()
    async with hosting(), trio.open_nursery() as inside:
        inside.start_soon(follow_identity, identity, lambda _: None)
        await trio.sleep(1)
        async with shared(identity):
            assert opened == [identity]
        inside.cancel_scope.cancel()
