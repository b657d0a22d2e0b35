"""Trust domains that trust one another: each vouches for its own names, and for no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from linkerd_proxy import Originate, Target, Terminate, opened
from linkerd_proxy.core.work import Dial
from linkerd_proxy.errors import UpstreamHandshakeFailed
from linkerd_proxy.testing import MemoryConnect, MemoryListener, serving
from linkerd_proxy.testing.origin import _Leaf, echo
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.identity import Given
from linkerd_proxy.tls.leaf import signed_leaf

OURS = "spiffe://mesh.local/web"
THEIRS = "spiffe://other.example/api"


@pytest.fixture(scope="module")
def home():
    return Authority.create("mesh.local")


@pytest.fixture(scope="module")
def abroad():
    return Authority.create("other.example")


def forged(authority, name):
    """A certificate that an authority has no right to issue."""
    mine = authority.issue(OURS if authority.trust_domain == "mesh.local" else THEIRS)
    leaf = signed_leaf(
        name,
        mine.key.public_key(),
        issuer=authority.certificate,
        signer=authority.key,
        issued=authority.now(),
        lifetime=1000,
    )
    return replace(mine, name=name, chain=(leaf,))


def trusting(credentials, other):
    return Given(replace(credentials, federated={other.trust_domain: other.anchors}))


async def ask(client, server, peer):
    """Send something through mutual TLS, and return what comes back."""
    answers = []

    async def use(stream):
        await stream.send_all(b"hello")
        await stream.send_eof()
        answers.append(b"".join([chunk async for chunk in stream]))

    listener = MemoryListener()
    stack = Terminate(server, require_identity=True) | _Leaf(echo)
    async with (
        serving(stack, listener),
        opened(Originate(client) | MemoryConnect(listener)) as service,
    ):
        await service(Dial(Target(identity=peer), use))
    return answers[0]


async def test_workloads_of_two_domains_talk_where_both_trust_the_other(autojump_clock, home, abroad):
    ours, theirs = trusting(home.issue(OURS), abroad), trusting(abroad.issue(THEIRS), home)
    assert await ask(ours, theirs, THEIRS) == b"hello"
    assert await ask(theirs, ours, OURS) == b"hello"
    assert await ask(ours, trusting(home.issue("spiffe://mesh.local/db"), abroad), "spiffe://mesh.local/db") == b"hello"


async def test_names_that_are_no_spiffe_ids_are_vouched_for_at_home(autojump_clock, home, abroad):
    ours = trusting(home.issue("web.mesh.local"), abroad)
    assert await ask(ours, trusting(home.issue("db.mesh.local"), abroad), "db.mesh.local") == b"hello"
    with pytest.raises(UpstreamHandshakeFailed, match=r"may not vouch for db\.mesh\.local"):
        await ask(ours, trusting(forged(abroad, "db.mesh.local"), home), "db.mesh.local")


async def test_strangers_are_unknown(autojump_clock, home, abroad):
    with pytest.raises(UpstreamHandshakeFailed) as caught:
        await ask(Given(home.issue(OURS)), trusting(abroad.issue(THEIRS), home), THEIRS)
    assert caught.value.reason == "unknown_ca"


@pytest.mark.parametrize("name", [OURS, "spiffe://mesh.local/admin", "spiffe://third.example/x"])
async def test_a_foreign_authority_vouches_for_nobody_else(autojump_clock, home, abroad, name):
    with pytest.raises(UpstreamHandshakeFailed, match="may not vouch for"):
        await ask(trusting(home.issue(OURS), abroad), trusting(forged(abroad, name), home), name)


async def test_our_authority_does_not_vouch_for_the_other_domain(autojump_clock, home, abroad):
    with pytest.raises(UpstreamHandshakeFailed, match="may not vouch for"):
        await ask(trusting(home.issue(OURS), abroad), trusting(forged(home, THEIRS), abroad), THEIRS)


async def test_servers_hold_their_clients_to_the_same(autojump_clock, home, abroad, caplog):
    server = trusting(home.issue(OURS), abroad)
    with pytest.raises((UpstreamHandshakeFailed, trio.BrokenResourceError, IndexError)):
        await ask(trusting(forged(abroad, "spiffe://mesh.local/admin"), home), server, OURS)
    assert "may not vouch for spiffe://mesh.local/admin" in caplog.text
