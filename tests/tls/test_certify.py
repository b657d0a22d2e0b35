"""Certify: a certificate from the authority in time, again and again, and only one that peers will accept."""

from __future__ import annotations

import logging
import random
from datetime import UTC, datetime, timedelta

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from linkerd_proxy import Client, Http, Rescue, current_registry, opened
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.grpc import Grpc, GrpcError, GrpcStatus, unary
from linkerd_proxy.grpc.identity_api import CERTIFY, CertifyResponse
from linkerd_proxy.grpc.times import timestamp
from linkerd_proxy.testing import MemoryConnect, MemoryListener, serving
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.certify import Certify
from linkerd_proxy.tls.renewal import Renewal

NAME = "web.default.serviceaccount.identity.linkerd.mesh.local"
START = datetime(2030, 1, 1, tzinfo=UTC)
DER = serialization.Encoding.DER
PEM = serialization.Encoding.PEM


def wall():
    """The time of day, which Trio's clock moves."""
    return START + timedelta(seconds=trio.current_time())


class Server:
    """The authority's side: it issues, until a test wants something else of it."""

    def __init__(self, lifetime=1000.0):
        self.authority = Authority.create(now=wall)
        self.lifetime = lifetime
        self.asked = []
        self.at = []
        self.failing = None
        self.reply = self.issue

    @property
    def anchors(self):
        return b"".join(one.public_bytes(PEM) for one in self.authority.anchors).decode()

    @property
    def stack(self):
        return Grpc(unary(CERTIFY, self.certify))

    async def certify(self, request, call):
        self.asked.append(request)
        self.at.append(trio.current_time())
        if self.failing is not None:
            raise self.failing
        return self.reply(request)

    def issue(self, request, name=None, authority=None):
        chain = (authority or self.authority).sign(
            name or request.identity, request.certificate_signing_request, lifetime=self.lifetime
        )
        return CertifyResponse(
            leaf_certificate=chain[0].public_bytes(DER),
            intermediate_certificates=[one.public_bytes(DER) for one in chain[1:]],
            valid_until=timestamp(chain[0].not_valid_after_utc),
        )

    def identity(self, **settings):
        settings.setdefault("via", self.stack)
        settings.setdefault("anchors", self.anchors)
        return Certify(NAME, now=wall, dice=random.Random(1), **settings)


@pytest.fixture
async def server(autojump_clock):
    return Server()


async def test_a_certificate_is_published_as_soon_as_the_authority_answers(autojump_clock, server):
    async with server.identity().open() as live:
        assert live.name == NAME
        assert not live.is_valid(wall())
        credentials = await live.wait_changed()
        assert live.require() is credentials
        assert live.is_valid(wall())
    assert credentials.name == NAME
    assert credentials.chain[0].public_key() == credentials.key.public_key()
    assert credentials.anchors == server.authority.anchors


async def test_the_request_is_der_for_one_name_and_signed_by_the_key(autojump_clock, server):
    async with server.identity().open() as live:
        credentials = await live.wait_changed()
    (asked,) = server.asked
    assert (asked.identity, asked.token) == (NAME, b"")
    csr = x509.load_der_x509_csr(asked.certificate_signing_request)
    assert csr.is_signature_valid
    assert csr.public_key() == credentials.key.public_key()
    assert isinstance(csr.public_key().curve, ec.SECP256R1)
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME]


async def test_it_is_renewed_at_70_percent_of_its_life_with_another_key(autojump_clock, server):
    async with server.identity().open() as live:
        first = await live.wait_changed()
        second = await live.wait_changed()
        await live.wait_changed()
    assert server.at[1] - server.at[0] == pytest.approx(700, abs=1.1)  # certificates count in whole seconds
    assert server.at[2] - server.at[1] == pytest.approx(700, abs=1.1)
    assert first.key.public_key() != second.key.public_key()


@pytest.mark.parametrize(("lifetime", "wait"), [(11, 7.7), (30 * 86400, 86400)])
async def test_renewals_are_at_70_percent_and_at_most_a_day_apart(autojump_clock, server, lifetime, wait):
    server.lifetime = lifetime
    async with server.identity().open() as live:
        await live.wait_changed()
        await live.wait_changed()
    assert server.at[1] - server.at[0] == pytest.approx(wait, abs=0.1)


async def test_the_bounds_can_be_set(autojump_clock, server):
    server.lifetime = 10
    async with server.identity(renewal=Renewal(share=0.5, minimum=1.0)).open() as live:
        await live.wait_changed()
        await live.wait_changed()
    assert server.at[1] - server.at[0] == pytest.approx(5, abs=1.1)


async def test_the_token_file_is_read_anew_each_time(autojump_clock, server, tmp_path):
    token = tmp_path / "token"
    token.write_text("one\n")
    async with server.identity(token_file=str(token)).open() as live:
        await live.wait_changed()
        token.write_text("two")
        await live.wait_changed()
    assert [request.token for request in server.asked] == [b"one", b"two"]


async def test_a_missing_token_file_is_waited_for(autojump_clock, server, tmp_path, caplog):
    token = tmp_path / "token"
    async with server.identity(token_file=str(token)).open() as live:
        await trio.sleep(60)
        assert server.asked == []
        assert f"cannot read {token}" in caplog.text
        token.write_text("late")
        await live.wait_changed()


async def test_key_and_request_of_linkerds_directory_are_used_as_they_are(autojump_clock, server, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(NAME)])
    csr = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=True)
    request = csr.sign(key, hashes.SHA256()).public_bytes(DER)
    (tmp_path / "csr.der").write_bytes(request)
    pkcs8 = key.private_bytes(DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.p8").write_bytes(pkcs8)
    async with server.identity(directory=str(tmp_path)).open() as live:
        credentials = await live.wait_changed()
        await live.wait_changed()
    assert [one.certificate_signing_request for one in server.asked] == [request, request]
    assert credentials.key.public_key() == key.public_key()


async def test_a_key_that_cannot_be_read_shows_nothing_of_itself(autojump_clock, server, tmp_path, caplog):
    (tmp_path / "csr.der").write_bytes(b"x")
    (tmp_path / "key.p8").write_bytes(b"secret")
    async with server.identity(directory=str(tmp_path)).open():
        await trio.sleep(1)
    assert "private key can't be read" in caplog.text
    assert "secret" not in caplog.text


async def test_anchors_may_be_in_a_file_that_is_read_anew(autojump_clock, server, tmp_path):
    other = Authority.create(now=wall)
    file = tmp_path / "ca.pem"
    file.write_text(server.anchors)
    async with server.identity(anchors=str(file)).open() as live:
        assert len((await live.wait_changed()).anchors) == 1
        file.write_text(server.anchors + other.certificate.public_bytes(PEM).decode())
        assert len((await live.wait_changed()).anchors) == 2


# --- what is not published ---------------------------------------------------------------------


def bad(change):
    def reply(server, request):
        response = server.issue(request)
        change(response)
        return response

    return reply


def of_another_key(server, request):
    mine = server.authority.issue(NAME)
    response = server.issue(request)
    response.leaf_certificate = mine.chain[0].public_bytes(DER)
    return response


BAD = {
    "another name": (lambda server, request: named(server, request), "is other.mesh.local's, not web"),
    "another key": (of_another_key, "for another key"),
    "another authority": (
        lambda server, request: server.issue(request, authority=Authority.create(now=wall)),
        "does not chain up to a trust anchor",
    ),
    "expired": (lambda server, request: expired(server, request), "a certificate is valid from"),
    "garbage": (bad(lambda response: setattr(response, "leaf_certificate", b"garbage")), "can't be read"),
    "nothing": (bad(lambda response: response.ClearField("leaf_certificate")), "can't be read"),
    "no time": (bad(lambda response: response.ClearField("valid_until")), "does not say until when"),
    "a time in the past": (bad(lambda response: response.valid_until.CopyFrom(timestamp(START))), "2030-01-01T00:00:0"),
    "no time on earth": (bad(lambda response: setattr(response.valid_until, "seconds", 1 << 60)), "no calendar"),
    "too much": (bad(lambda response: response.intermediate_certificates.extend([b""] * 101)), "more than 100"),
}


def named(server, request):
    key = x509.load_der_x509_csr(request.certificate_signing_request).public_key()
    from linkerd_proxy.tls.leaf import signed_leaf

    leaf = signed_leaf(
        "other.mesh.local",
        key,
        issuer=server.authority.certificate,
        signer=server.authority.key,
        issued=wall(),
        lifetime=100,
    )
    return CertifyResponse(leaf_certificate=leaf.public_bytes(DER), valid_until=timestamp(leaf.not_valid_after_utc))


def expired(server, request):
    key = x509.load_der_x509_csr(request.certificate_signing_request).public_key()
    from linkerd_proxy.tls.leaf import signed_leaf

    leaf = signed_leaf(
        NAME,
        key,
        issuer=server.authority.certificate,
        signer=server.authority.key,
        issued=wall() - timedelta(days=1),
        lifetime=100,
    )
    return CertifyResponse(leaf_certificate=leaf.public_bytes(DER), valid_until=timestamp(leaf.not_valid_after_utc))


@pytest.mark.parametrize("case", BAD)
async def test_what_peers_would_not_accept_is_not_published(autojump_clock, server, caplog, case):
    reply, text = BAD[case]
    server.reply = lambda request: reply(server, request)
    async with server.identity().open() as live:
        await trio.sleep(5)
        assert live.credentials is None
        assert text in caplog.text
        server.reply = server.issue
        await live.wait_changed()


async def test_an_intermediate_authority_is_part_of_the_chain(autojump_clock, server):
    below = server.authority.subordinate()
    server.reply = lambda request: server.issue(request, authority=below)
    async with server.identity().open() as live:
        credentials = await live.wait_changed()
    assert credentials.chain[1] == below.certificate
    assert credentials.anchors == server.authority.anchors


async def test_a_chain_without_its_intermediate_is_not_published(autojump_clock, server, caplog):
    below = server.authority.subordinate()

    def without(request):
        response = server.issue(request, authority=below)
        del response.intermediate_certificates[:]
        return response

    server.reply = without
    async with server.identity().open() as live:
        await trio.sleep(5)
        assert live.credentials is None
    assert "does not chain up" in caplog.text


# --- an authority that fails -------------------------------------------------------------------


async def test_tries_again_with_growing_waits_and_keeps_the_old_certificate_until_it_expires(
    autojump_clock, server, caplog
):
    caplog.set_level(logging.INFO)
    async with server.identity(retry=Backoff(1.0, 30.0, 0.5)).open() as live:
        first = await live.wait_changed()
        server.failing = GrpcError(GrpcStatus.UNAVAILABLE, "down")
        await trio.sleep_until(server.at[0] + 990)
        assert live.credentials is first
        assert live.is_valid(wall())
        waits = [later - earlier for earlier, later in zip(server.at[1:], server.at[2:], strict=False)]
        assert all(
            want <= wait <= 1.5 * want + 0.1 for wait, want in zip(waits, [1, 2, 4, 8, 16, 30, 30], strict=False)
        )
        assert len(set(waits[5:])) > 1  # jitter
        await trio.sleep_until(server.at[0] + 1002)
        assert not live.is_valid(wall())
        assert "the present one is good until 2030" in caplog.text
        server.failing = None
        second = await live.wait_changed()
        assert second is not first
        assert live.is_valid(wall())
    assert "trying again in" in caplog.text
    assert "UNAVAILABLE: down" in caplog.text


async def test_an_authority_that_is_not_there_or_hangs_is_tried_again(autojump_clock, server, caplog):
    listener = MemoryListener()
    async with server.identity(via=Client(protocol="h2") | MemoryConnect(listener)).open() as live:
        await trio.sleep(60)  # connections are made, and nobody accepts them
        assert "DEADLINE_EXCEEDED" in caplog.text
        async with serving(Http() | Rescue() | server.stack, listener):
            await live.wait_changed()


async def test_renewals_go_their_own_way_while_the_certificate_is_valid(autojump_clock, server, tmp_path):
    token = tmp_path / "token"
    token.write_text("once")
    again = Server()
    again.authority = server.authority
    given = []

    def renew(identity):
        given.append(identity)
        return again.stack

    async with server.identity(token_file=str(token), renew_via=renew).open() as live:
        first = await live.wait_changed()
        async with given[0].open() as present:
            assert present.require() is first
        token.unlink()
        await live.wait_changed()
        assert ([one.token for one in server.asked], [one.token for one in again.asked]) == ([b"once"], [b""])
        again.failing = GrpcError(GrpcStatus.UNAVAILABLE, "down")
        token.write_text("again")
        await live.wait_changed()  # after it had expired, by the first way
        assert server.asked[-1].token == b"again"
        assert wall() >= first.not_after


async def test_renewals_send_the_token_too_where_that_is_asked_for_and_do_without_one_that_is_gone(
    autojump_clock, server, tmp_path
):
    token = tmp_path / "token"
    token.write_text("first")
    again = Server()
    again.authority = server.authority
    identity = server.identity(token_file=str(token), renew_via=lambda _: again.stack, renewals_send_token=True)
    async with identity.open() as live:
        await live.wait_changed()
        token.write_text("second")  # as Kubernetes renews it
        await live.wait_changed()
        token.unlink()
        await live.wait_changed()
    assert ([one.token for one in server.asked], [one.token for one in again.asked]) == ([b"first"], [b"second", b""])


async def test_the_metrics_tell_of_renewals(autojump_clock, server):
    registry = current_registry()
    async with server.identity().open() as live:
        credentials = await live.wait_changed()
        server.failing = GrpcError(GrpcStatus.UNAVAILABLE, "down")
        await trio.sleep(702)
    value = registry.gauge("control_identity_cert_expiration_timestamp_seconds", "").value
    assert value == credentials.not_after.timestamp()
    assert registry.counter("control_identity_cert_refreshes_total", "", result="ok").value == 1
    assert registry.counter("control_identity_cert_refreshes_total", "", result="error").value >= 1


async def test_stacks_that_name_one_identity_share_it(autojump_clock, server):
    from linkerd_proxy.core.shared import hosting, shared

    identity = server.identity()
    async with hosting(), shared(identity) as one, shared(identity) as other:
        assert one is other
        await one.wait_changed()
    assert len(server.asked) == 1


async def test_closing_it_leaves_nothing_behind(autojump_clock, server):
    async with opened(server.stack), server.identity().open():
        await trio.testing.wait_all_tasks_blocked()
    asked = len(server.asked)
    await trio.sleep(5000)
    assert len(server.asked) == asked


def test_a_name_that_is_no_identity_is_refused():
    with pytest.raises(InvalidConfiguration, match="no identity"):
        Certify("Web.Mesh", Grpc(), "ca.pem")
    with pytest.raises(InvalidConfiguration, match="share"):
        Renewal(share=1.5)
    with pytest.raises(InvalidConfiguration, match="minimum"):
        Renewal(minimum=5, maximum=1)
