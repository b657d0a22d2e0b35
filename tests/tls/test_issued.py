"""An identity from an authority in the same process is there at once, and always fresh."""

import logging
from datetime import UTC, datetime, timedelta

import pytest
import trio

from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.shared import hosting, shared
from linkerd_proxy.errors import InvalidConfiguration, NoCredentials
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.issued import Issued
from linkerd_proxy.tls.store import ISSUER, create_store, key_pem, to_pem
from linkerd_proxy.tls.stored import StoredAuthority


class Clock:
    """A wall clock that goes with Trio's, and jumps where a host sleeps."""

    def __init__(self):
        self.ahead = timedelta()

    def __call__(self):
        return datetime(2026, 11, 25, tzinfo=UTC) + timedelta(seconds=trio.current_time()) + self.ahead


@pytest.fixture
def clock():
    return Clock()


async def test_it_renews_itself_with_a_new_key_at_70_percent(autojump_clock, clock):
    authority = Authority.create("mesh.local", now=clock)
    async with Issued(authority, "web.mesh.local").open() as live:
        first = live.require()
        start = trio.current_time()
        second = await live.wait_changed()
        assert trio.current_time() - start == pytest.approx(0.7 * 86400, abs=1)
        assert second is live.credentials
        assert (second.name, second.key != first.key) == ("web.mesh.local", True)
        assert second.not_after > first.not_after


async def test_short_lifetimes_are_renewed_in_time_and_never_in_a_hot_loop(autojump_clock, clock):
    authority = Authority.create("mesh.local", now=clock)
    async with Issued(authority, "web.mesh.local", lifetime=2.0).open() as live:
        for _ in range(50):
            assert live.require().not_after > clock()
            start = trio.current_time()
            await live.wait_changed()
            assert 0.5 <= trio.current_time() - start <= 1.5


async def test_a_host_that_slept_renews_within_a_minute(autojump_clock, clock):
    authority = Authority.create("mesh.local", now=clock)
    async with Issued(authority, "web.mesh.local").open() as live:
        await trio.sleep(100)
        clock.ahead = timedelta(hours=20)
        start = trio.current_time()
        await live.wait_changed()
        assert trio.current_time() - start <= 60


async def test_while_its_authority_has_expired_it_keeps_what_it_has_and_tries_less_often(autojump_clock, clock, caplog):
    authority = Authority.create("mesh.local", lifetime=3600, now=clock)
    identity = Issued(authority, "web.mesh.local", retry=Backoff(1.0, 30.0))
    async with identity.open() as live:
        await trio.sleep(4000)
        last = live.require()
        assert last.not_after < clock()
        before = len(caplog.records)
        await trio.sleep(120)
        assert live.credentials is last
    assert len(caplog.records) - before == 4
    assert "no new certificate for web.mesh.local: " in caplog.text
    assert "trying again in 30 s" in caplog.text
    assert "authority init" in caplog.text


async def test_its_metrics_are_those_of_any_identity(autojump_clock, clock):
    registry = current_registry()
    authority = Authority.create("mesh.local", lifetime=3600, now=clock)
    async with Issued(authority, "web.mesh.local").open() as live:
        assert registry.counter("control_identity_cert_refreshes_total", "", result="ok").value == 1
        expiration = registry.gauge("control_identity_cert_expiration_timestamp_seconds", "")
        assert expiration.value == live.require().not_after.timestamp()
        refreshed = registry.gauge("control_identity_cert_refresh_timestamp_seconds", "")
        assert refreshed.value == clock().timestamp()
        await trio.sleep(4000)
        assert registry.counter("control_identity_cert_refreshes_total", "", result="ok").value > 1
        assert registry.counter("control_identity_cert_refreshes_total", "", result="error").value > 1


async def test_what_may_not_be_issued_does_not_open(autojump_clock, clock):
    authority = Authority.create("mesh.local", lifetime=3600, now=clock)
    with pytest.raises(InvalidConfiguration, match="not in the trust domain"):
        async with Issued(authority, "web.other").open():
            pass
    await trio.sleep(3600)
    with pytest.raises(NoCredentials, match="has expired"):
        async with Issued(authority, "web.mesh.local").open():
            pass


async def test_layers_that_name_one_share_it(autojump_clock, clock):
    identity = Issued(Authority.create("mesh.local", now=clock), "web.mesh.local")
    async with hosting(), shared(identity) as one, shared(identity) as other:
        assert one is other


@pytest.fixture
def directory(tmp_path):
    create_store(tmp_path / "mesh", Authority.create("mesh.local"))
    return tmp_path / "mesh"


def put(directory, authority):
    for name in ("issuer.key", ISSUER, "ca.pem"):
        (directory / name).unlink()
    create_store(directory, authority)


async def test_an_authority_that_changes_on_disk_renews_within_a_minute(autojump_clock, directory):
    stored = StoredAuthority(directory)
    async with Issued(stored, "web.mesh.local").open() as live:
        following = Authority.create("mesh.local")
        put(directory, following)
        with trio.fail_after(61):
            credentials = await live.wait_changed()
        assert credentials.anchors == following.anchors
        assert stored.issue("db.mesh.local").anchors == following.anchors


def test_files_that_do_not_belong_together_change_nothing_and_are_told_once(directory, caplog):
    caplog.set_level(logging.INFO, "linkerd_proxy.authority")
    stored = StoredAuthority(directory)
    before = stored.current()
    following = Authority.create("mesh.local")
    (directory / "issuer.key").write_bytes(key_pem(following.key))
    for _ in range(5):
        assert stored.current() is before
    assert stored.issue("web.mesh.local").anchors == before.anchors
    assert len(caplog.records) == 1
    assert "it goes on as before: " in caplog.text
    (directory / ISSUER).write_bytes(to_pem(following.issuers))
    (directory / "ca.pem").write_bytes(to_pem(following.anchors))
    assert stored.current().anchors == following.anchors
    assert "from its changed files" in caplog.text


def test_a_directory_that_vanishes_changes_nothing(directory, caplog):
    stored = StoredAuthority(directory)
    directory.rename(directory.with_name("gone"))
    assert stored.issue("web.mesh.local")
    directory.with_name("gone").rename(directory)
    assert stored.issue("web.mesh.local")
