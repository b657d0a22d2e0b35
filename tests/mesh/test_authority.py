"""The authority's server: who asks, what proves it, what it gets, and what everybody else is told."""

import json
import logging
import os
import ssl
from dataclasses import replace
from datetime import timedelta

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from linkerd_proxy import Client, Connect, InvalidConfiguration, current_registry, open_listeners, opened, serve
from linkerd_proxy.grpc.client import GrpcClient
from linkerd_proxy.grpc.identity_api import CERTIFY, CertifyRequest
from linkerd_proxy.grpc.status import GrpcError
from linkerd_proxy.grpc.times import moment_of
from linkerd_proxy.grpc_status import GrpcStatus
from linkerd_proxy.io.unix_peer import UnixPeer, unix_peer
from linkerd_proxy.mesh.authority import Certifier, authority_stacks
from linkerd_proxy.mesh.authority_users import Users
from linkerd_proxy.mesh.identities import find_identity
from linkerd_proxy.tls.authority import Authority, utc_now
from linkerd_proxy.tls.certify import Certify
from linkerd_proxy.tls.identity import Given
from linkerd_proxy.tls.originate import Originate
from linkerd_proxy.tls.renewal import Renewal
from linkerd_proxy.tls.store import create_store
from linkerd_proxy.tls.stored import StoredAuthority
from tests.patience import PATIENCE

NAME = "web.mesh.local"
OWN = "authority.mesh.local"
UID = os.getuid()


def csr(name=NAME, key=None):
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) if "://" in name else x509.DNSName(name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(
        serialization.Encoding.DER
    )


class Server:
    def __init__(self, directory):
        self.directory = directory
        self.ahead = timedelta()
        self.stored = StoredAuthority(directory, now=lambda: utc_now() + self.ahead)
        self.certifier = Certifier(
            self.stored,
            own=OWN,
            users=Users([f"{UID}=spiffe://mesh.local/local"], None, self.stored.current().check_name),
        )
        self.tokens = self.certifier.tokens
        self.tcp = self.unix = ""

    def way(self, identity=None, source=None):
        """The stack to it over TLS: with a certificate, or as one that has none yet."""
        if identity is not None:
            return Client() | Originate(identity, peer=OWN) | Connect(self.tcp)
        context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        return Client() | Originate(context=context, host=OWN) | Connect(self.tcp, source=source)

    def local(self):
        return Client() | Connect(self.unix)

    async def ask(self, way, name=NAME, token="", request=None):
        message = CertifyRequest(
            identity=name,
            token=token if isinstance(token, bytes) else token.encode(),
            certificate_signing_request=csr(name) if request is None else request,
        )
        with trio.fail_after(PATIENCE):
            async with opened(way) as service:
                return await GrpcClient(service, authority=OWN).unary(CERTIFY, message)

    def log(self):
        path = self.directory / "issued.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
async def server(tmp_path, nursery):
    create_store(tmp_path / "mesh", Authority.create("mesh.local"))
    server = Server(tmp_path / "mesh")
    tcp, unix = authority_stacks(server.certifier)
    (one,) = await open_listeners("127.0.0.1:0")
    (other,) = await open_listeners(f"unix:{tmp_path}/s")
    server.tcp, server.unix = str(one.address), str(other.address)
    for stack, listener in ((tcp, one), (unix, other)):
        await nursery.start(lambda *, task_status, made=stack, on=listener: serve(made, [on], task_status=task_status))
    return server


def refused(status, text):
    return pytest.raises(GrpcError, match=f"{status.name}: .*{text}")


async def test_a_token_gets_the_first_certificate_once(server):
    token = server.tokens.make(NAME)
    key = ec.generate_private_key(ec.SECP256R1())
    reply = await server.ask(server.way(), token=token, request=csr(key=key))
    leaf = x509.load_der_x509_certificate(reply.leaf_certificate)
    assert leaf.public_key() == key.public_key()
    leaf.verify_directly_issued_by(server.stored.current().certificate)
    assert moment_of(reply.valid_until) == leaf.not_valid_after_utc
    assert list(reply.intermediate_certificates) == []
    with refused(GrpcStatus.PERMISSION_DENIED, "unknown, or was used: make a new one"):
        await server.ask(server.way(), token=token)
    assert [(one["name"], one["how"], one["serial"]) for one in server.log()] == [
        (NAME, "token", f"{leaf.serial_number:x}")
    ]


async def test_a_token_read_from_a_file_may_end_with_a_newline(server):
    assert await server.ask(server.way(), token=f"{server.tokens.make(NAME)}\n")


async def test_a_certificate_renews_itself_and_nothing_else(server):
    identity = Given(server.stored.issue(NAME))
    assert await server.ask(server.way(identity), token="an old token that was used long ago")
    assert server.log()[0]["how"] == "certificate"
    with refused(GrpcStatus.PERMISSION_DENIED, f"certificate is for {NAME}: ask for that name"):
        await server.ask(server.way(identity), name="db.mesh.local")
    assert await server.ask(server.way(identity), name="db.mesh.local", token=server.tokens.make("db.mesh.local"))


async def test_a_certificate_of_another_authority_or_an_expired_one_does_not_get_in(server):
    ours = server.stored.current()
    stranger = replace(Authority.create("mesh.local").issue(NAME), anchors=ours.anchors)
    expired = replace(ours, now=lambda: utc_now() - timedelta(seconds=30)).issue(NAME, lifetime=10)
    for credentials in (stranger, expired):
        with refused(GrpcStatus.UNAVAILABLE, ""):
            await server.ask(server.way(Given(credentials)), token=server.tokens.make(NAME))
    assert server.log() == []


async def test_a_user_who_has_his_names_needs_no_token_and_spends_none(server):
    name = "spiffe://mesh.local/local"
    token = server.tokens.make(name)
    for shown in (token, token, "spent long ago"):
        assert await server.ask(server.local(), name=name, token=shown)
    assert [one["how"] for one in server.log()] == [f"uid {UID}"] * 3
    assert await server.ask(server.way(), name=name, token=token)


async def test_a_user_of_this_host_gets_his_names(server):
    assert await server.ask(server.local(), name="spiffe://mesh.local/local")
    assert server.log()[0]["how"] == f"uid {UID}"
    with refused(GrpcStatus.PERMISSION_DENIED, f"user {UID} may not be {NAME}: allow it with --allow {UID}={NAME}"):
        await server.ask(server.local())
    assert await server.ask(server.local(), token=server.tokens.make(NAME))


@pytest.mark.parametrize(
    ("name", "token", "told"),
    [
        (NAME, "", "nothing shows who asks: send a token"),
        (NAME, "guess", "the token is unknown"),
        (NAME, b"\xff\xfe", "the token is unknown"),
        (NAME, "x" * 5000, "the token is unknown"),
        (OWN, "", "is the authority itself"),
    ],
)
async def test_who_shows_nothing_gets_nothing(server, name, token, told):
    with refused(GrpcStatus.PERMISSION_DENIED, told):
        await server.ask(server.way(), name=name, token=token)
    assert server.log() == []


async def test_the_authoritys_own_name_is_for_nobody_whatever_he_shows(server):
    with refused(GrpcStatus.PERMISSION_DENIED, "is the authority itself"):
        await server.ask(server.way(), name=OWN, token=server.tokens.make(OWN))
    with refused(GrpcStatus.PERMISSION_DENIED, "is the authority itself"):
        await server.ask(server.way(Given(server.stored.issue(OWN))), name=OWN)


@pytest.mark.parametrize(
    ("name", "request_of", "told"),
    [
        ("web.other.local", csr, "it is not in the trust domain mesh.local"),
        ("", lambda name: csr(), "it is empty"),
        ("*.mesh.local", lambda name: csr(), "a wildcard names nobody"),
        (NAME, lambda name: csr("db.mesh.local"), "other alternative names than the one it may have"),
        (NAME, lambda name: b"", "there is no certificate signing request"),
        (NAME, lambda name: b"\x30\x00", "this is no certificate signing request"),
        (NAME, lambda name: b"-----BEGIN CERTIFICATE REQUEST-----", "is PEM: send its DER"),
        (NAME, lambda name: bytes(9000), "has 9000 bytes"),
    ],
)
async def test_a_wrong_request_costs_no_token(server, name, request_of, told):
    token = server.tokens.make(NAME)
    with refused(GrpcStatus.INVALID_ARGUMENT, told):
        await server.ask(server.way(), name=name, token=token, request=request_of(name))
    server.tokens.check(token, NAME)


async def test_a_token_of_another_name_is_refused_and_kept(server):
    token = server.tokens.make("db.mesh.local")
    with refused(GrpcStatus.PERMISSION_DENIED, f"is not for {NAME}"):
        await server.ask(server.way(), token=token)
    server.tokens.check(token, "db.mesh.local")


async def test_many_at_once_with_one_token_get_one_certificate(server):
    token = server.tokens.make(NAME)
    outcomes = []

    async def ask():
        try:
            outcomes.append(await server.ask(server.local(), token=token))
        except GrpcError as error:
            outcomes.append(error.status)

    async with trio.open_nursery() as nursery:
        for _ in range(15):
            nursery.start_soon(ask)
    assert outcomes.count(GrpcStatus.PERMISSION_DENIED) == 14
    assert len(server.log()) == 1


async def test_a_message_that_is_too_large_is_refused(server):
    with refused(GrpcStatus.RESOURCE_EXHAUSTED, ""):
        await server.ask(server.way(), request=bytes(20_000))


async def test_too_many_requests_are_refused_and_a_renewal_still_gets_through(mock_clock, server):
    # Time stands still, so that however slow the machine is, they come at once.
    statuses = []
    with trio.fail_after(PATIENCE):
        async with opened(server.way()) as service:
            client = GrpcClient(service, authority=OWN)
            for _ in range(60):
                try:
                    await client.unary(CERTIFY, CertifyRequest(identity=NAME))
                except GrpcError as error:
                    statuses.append(error.status)
    assert len(statuses) == 60
    assert statuses.count(GrpcStatus.RESOURCE_EXHAUSTED) > 0
    assert await server.ask(server.way(Given(server.stored.issue(NAME))))


async def test_what_speaks_no_tls_is_closed_before_it_is_read(server):
    with refused(GrpcStatus.UNAVAILABLE, ""):
        await server.ask(Client() | Connect(server.tcp), token=server.tokens.make(NAME))
    assert len(server.tokens.outstanding()) == 1


async def test_an_expired_authority_says_so_and_keeps_the_token(server):
    token = server.tokens.make(NAME, lifetime=86400 * 365)
    server.ahead = timedelta(days=364)
    (server.directory / "x").touch()
    expired = Authority.create("mesh.local", lifetime=3600)
    for name in ("issuer.key", "issuer.pem", "ca.pem"):
        (server.directory / name).unlink()
    create_store(server.directory, expired)
    with refused(GrpcStatus.UNAVAILABLE, "has expired; make a new one"):
        await server.ask(server.local(), token=token)
    server.tokens.check(token, NAME)


async def test_what_cannot_be_written_down_is_not_issued(server):
    (server.directory / "issued.log").mkdir()
    with refused(GrpcStatus.UNAVAILABLE, "nothing is issued that is not written down"):
        await server.ask(server.way(), token=server.tokens.make(NAME))


async def test_everything_is_counted_and_logged_on_one_line(server, caplog):
    caplog.set_level(logging.INFO, "linkerd_proxy.authority")
    await server.ask(server.way(), token=server.tokens.make(NAME))
    with refused(GrpcStatus.PERMISSION_DENIED, "nothing shows"):
        await server.ask(server.way())
    with refused(GrpcStatus.INVALID_ARGUMENT, ""):
        await server.ask(server.way(), name="a\nb")
    registry = current_registry()
    values = {
        (family.name, labels): series.value
        for family in registry
        if family.name.startswith("authority_")
        for labels, series in family.series.items()
    }
    assert values == {
        ("authority_issued_total", (("how", "token"),)): 1,
        ("authority_refused_total", (("reason", "permission_denied"),)): 1,
        ("authority_refused_total", (("reason", "invalid_argument"),)): 1,
    }
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith(f"issued {NAME} until") for line in lines) == 1
    refusals = [line for line in lines if line.startswith("AD authority: no certificate for")]
    assert len(refusals) == 2
    assert not any("in the policy" in line for line in refusals)  # there is none: what to do stands in the line
    assert not any("\n" in line for line in lines)


async def test_the_client_of_linkerds_protocol_gets_and_renews_its_identity(server, tmp_path):
    (tmp_path / "token").write_text(server.tokens.make(NAME))
    identity = Certify(
        NAME,
        server.way(),
        str(server.directory / "ca.pem"),
        token_file=str(tmp_path / "token"),
        renew_via=server.way,
        renewal=Renewal(minimum=0.001, maximum=0.001),
        authority=OWN,
    )
    with trio.fail_after(PATIENCE):
        async with identity.open() as live:
            seen = [live.credentials or await live.wait_changed()]
            seen += [await live.wait_changed(), await live.wait_changed()]
    assert {one.name for one in seen} == {NAME}
    assert len({one.chain[0].serial_number for one in seen}) == 3
    assert [one["how"] for one in server.log()][:3] == ["token", "certificate", "certificate"]


@pytest.mark.parametrize("kept", [True, False], ids=["token kept", "token gone"])
async def test_a_sidecar_that_the_environment_tells_of_it_is_renewed_after_its_token_is_spent(server, tmp_path, kept):
    token = tmp_path / "token"
    token.write_text(server.tokens.make(NAME))
    port = server.tcp.rpartition(":")[2]
    identity = find_identity(
        None,
        {
            "LINKERD2_PROXY_IDENTITY_SVC_ADDR": f"localhost:{port}",  # a name, as of another host
            "LINKERD2_PROXY_IDENTITY_SVC_NAME": OWN,
            "LINKERD2_PROXY_IDENTITY_LOCAL_NAME": NAME,
            "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS": str(server.directory / "ca.pem"),
            "LINKERD2_PROXY_IDENTITY_TOKEN_FILE": str(token),
        },
    )
    assert isinstance(identity, Certify)
    with trio.fail_after(PATIENCE):
        async with replace(identity, renewal=Renewal(minimum=0.001, maximum=0.001)).open() as live:
            first = live.credentials or await live.wait_changed()
            if not kept:
                token.unlink()
            second = await live.wait_changed()
    assert first.name == second.name == NAME
    assert [one["how"] for one in server.log()][:2] == ["token", "certificate"]


async def test_an_authority_below_sends_its_certificate_along(tmp_path, nursery):
    root = Authority.create("mesh.local")
    create_store(tmp_path / "west", root.subordinate())
    server = Server(tmp_path / "west")
    (listener,) = await open_listeners("127.0.0.1:0")
    server.tcp = str(listener.address)
    stack, _ = authority_stacks(server.certifier)
    await nursery.start(lambda *, task_status: serve(stack, [listener], task_status=task_status))
    reply = await server.ask(server.way(), token=server.tokens.make(NAME))
    (issuer,) = map(x509.load_der_x509_certificate, reply.intermediate_certificates)
    x509.load_der_x509_certificate(reply.leaf_certificate).verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root.certificate)


async def test_a_noisy_host_or_user_keeps_nobody_else_from_a_first_certificate(server, nursery, tmp_path):
    tcp, unix = authority_stacks(server.certifier, rate=1e-6)  # one each, for the time of a test
    (one,) = await open_listeners("127.0.0.1:0")
    (other,) = await open_listeners(f"unix:{tmp_path}/slow")
    server.tcp, server.unix = str(one.address), str(other.address)
    for stack, on in ((tcp, one), (unix, other)):
        await nursery.start(lambda *, task_status, made=stack, on=on: serve(made, [on], task_status=task_status))
    with refused(GrpcStatus.PERMISSION_DENIED, ""):
        await server.ask(server.way(), token="a guess")
    token = server.tokens.make(NAME)
    with refused(GrpcStatus.RESOURCE_EXHAUSTED, ".*of 127.0.0.1 without an identity is used up"):
        await server.ask(server.way(), token=token)
    assert await server.ask(server.local(), "spiffe://mesh.local/local")
    with refused(GrpcStatus.RESOURCE_EXHAUSTED, f".*of user {UID} without an identity is used up"):
        await server.ask(server.local(), "spiffe://mesh.local/local")
    assert await server.ask(server.way(source="127.0.0.2"), token=token)


async def test_the_stacks_show_themselves(server):
    tcp, unix = authority_stacks(server.certifier)
    assert "Terminate(" in str(tcp)
    assert "OnlyTls()" in str(tcp)
    assert "PRIVATE" not in str(tcp)
    assert str(unix).endswith("Grpc(unary('/io.linkerd.proxy.identity.Identity/Certify', certify), max_message=16384)")


# --- users -------------------------------------------------------------------------------------


def check(name):
    return Authority.create("mesh.local").check_name(name)


def test_users_come_from_options_and_a_file_that_may_change(tmp_path, caplog):
    file = tmp_path / "users"
    file.write_text(f"# who\n1000 {NAME} db.mesh.local  # two\n\nroot {NAME}\n")
    users = Users(["1000=spiffe://mesh.local/x", "1001=a.mesh.local"], file, check)
    assert users.names_of(1000) == {NAME, "db.mesh.local", "spiffe://mesh.local/x"}
    assert (users.names_of(0), users.names_of(1001), users.names_of(7)) == ({NAME}, {"a.mesh.local"}, set())
    for broken in ("1000", "nobody-here web.mesh.local", "1000 web.other", "\udcff"):
        file.write_text(broken, errors="surrogateescape")
        assert users.names_of(0) == {NAME}
    assert len(caplog.records) == 4
    assert "line 1: no name follows the user; write '1000 web.mesh.local'; it goes on as before" in caplog.text
    file.write_text("1000 b.mesh.local")
    assert users.names_of(1000) == {"b.mesh.local", "spiffe://mesh.local/x"}
    file.unlink()
    assert users.names_of(1000) == {"b.mesh.local", "spiffe://mesh.local/x"}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("1000", "--allow 1000: .* can't be issued, it is empty"),
        ("=web.mesh.local", "there is no user ''"),
        ("no-such-user=web.mesh.local", "there is no user 'no-such-user': give the name or the number"),
        ("1000=web.other", "not in the trust domain mesh.local"),
        ("65534=web.mesh.local", "stands for every user that is unknown here"),
    ],
)
def test_a_wrong_entry_is_told(entry, told):
    with pytest.raises(InvalidConfiguration, match=told):
        Users([entry], None, check)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InvalidConfiguration, match="cannot read"):
        Users([], tmp_path / "users", check)


async def test_the_kernel_tells_who_is_at_the_other_end(tmp_path):
    (listener,) = await open_listeners(f"unix:{tmp_path}/s")
    async with listener, await trio.open_unix_socket(f"{tmp_path}/s"):
        connection = await listener.accept()
        async with connection.stream:
            assert unix_peer(connection.stream) == UnixPeer(os.getpid(), UID, os.getgid())
        assert unix_peer(connection.stream) is None
    (listener,) = await open_listeners("127.0.0.1:0")
    async with listener, await trio.open_tcp_stream("127.0.0.1", listener.address.port):
        connection = await listener.accept()
        async with connection.stream:
            assert unix_peer(connection.stream) is None
