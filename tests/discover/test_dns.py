"""Endpoints from the DNS: what is asked, how often, and what is kept when nobody answers."""

import random
import sys
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.endpoint import Add, Endpoint, Gone, Remove, Reset
from linkerd_proxy.core.shared import shared
from linkerd_proxy.discover.dns import Dns
from linkerd_proxy.discover.lookup import Failure, Found, Record
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.registry import current_registry
from tests.patience import PATIENCE


class Zone:
    """A DNS in memory: answers by name and type, and when it was asked for what."""

    def __init__(self, **records) -> None:
        self.answers: dict[tuple[str, str], object] = {}
        self.asked: list[tuple[float, str, str]] = []

    async def lookup(self, name: str, kind: str):
        await trio.lowlevel.checkpoint()
        self.asked.append((trio.current_time(), name, kind))
        return self.answers.get((name, kind), Found((), 5))

    def put(self, name: str, kind: str, *hosts, ttl: float = 30) -> None:
        self.answers[name, kind] = Found(
            tuple(Record(host) if isinstance(host, str) else Record(*host) for host in hosts), ttl
        )

    def fail(self, *kinds: str) -> None:
        for name, kind in list(self.answers):
            if kind in kinds:
                self.answers[name, kind] = Failure("SERVFAIL")

    def times(self, kind: str = "A") -> list[float]:
        return [when for when, _, asked in self.asked if asked == kind]


def source(answers: Zone, name: str = "web.example:80", **options) -> Dns:
    return Dns(name, lookup=answers.lookup, dice=Even(), **options)


class Even(random.Random):
    def random(self) -> float:
        return 0.0


def ends(*hosts: str, port: int = 80, weight: float = 1.0) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(Address(host, port), weight) for host in hosts)


async def test_each_address_is_an_endpoint_and_the_question_is_repeated_when_the_answer_expires(autojump_clock) -> None:
    zone = Zone()
    zone.put("web.example", "A", "10.0.0.1", "10.0.0.2", ttl=30)
    zone.put("web.example", "AAAA", "fd00::1", ttl=20)
    async with shared(source(zone)) as resolution:
        updates = resolution.updates()
        assert await anext(updates) == Reset(ends("10.0.0.1", "10.0.0.2", "fd00::1"))
        zone.put("web.example", "A", "10.0.0.2")
        assert await anext(updates) == Remove((Address("10.0.0.1", 80),))
        assert trio.current_time() == pytest.approx(20)
        zone.put("web.example", "A", "10.0.0.2", "10.0.0.3")
        assert await anext(updates) == Add(ends("10.0.0.3"))


@pytest.mark.parametrize(("ttl", "period"), [(0, 5), (7, 7), (100_000, 300)])
async def test_the_time_to_live_has_a_floor_and_a_ceiling(ttl, period, autojump_clock) -> None:
    zone = Zone()
    zone.put("web.example", "A", "10.0.0.1", ttl=ttl)
    zone.put("web.example", "AAAA", "fd00::1", ttl=ttl)
    async with shared(source(zone)):
        await trio.sleep(period * 3 + 1)
    assert zone.times() == pytest.approx([0, period, 2 * period, 3 * period])


async def test_questions_come_a_little_late(autojump_clock) -> None:
    zone = Zone()
    zone.put("web.example", "A", "10.0.0.1", ttl=100)
    async with shared(Dns("web.example:80", lookup=zone.lookup, dice=random.Random(1))):
        await trio.sleep(50)
    gaps = [later - sooner for sooner, later in zip(zone.times(), zone.times()[1:], strict=False)]
    assert all(5 <= gap <= 5.25 for gap in gaps)
    assert len(set(gaps)) > 1


async def test_the_last_good_set_is_kept_while_nobody_answers(autojump_clock) -> None:
    zone = Zone()
    zone.put("web.example", "A", "10.0.0.1")
    async with shared(source(zone)) as resolution:
        updates = resolution.updates()
        await anext(updates)
        zone.fail("A")
        zone.answers["web.example", "AAAA"] = Failure("timed out")
        with trio.move_on_after(600):
            pytest.fail(f"heard {await anext(updates)}")
        zone.put("web.example", "A", "10.0.0.9")
        assert await anext(updates) == Reset(ends("10.0.0.9"))
    assert len(zone.times()) <= 610 / 5 + 1  # one question in 5 s, never a hot loop


async def test_the_last_good_set_is_kept_when_the_name_is_said_not_to_exist(autojump_clock) -> None:
    zone = Zone()
    zone.put("web.example", "A", "10.0.0.1")
    async with shared(source(zone)) as resolution:
        updates = resolution.updates()
        await anext(updates)
        zone.put("web.example", "A", ttl=0)
        with trio.move_on_after(600):
            pytest.fail(f"heard {await anext(updates)}")
    assert len(zone.times()) <= 121


async def test_one_family_that_fails_keeps_its_own_addresses_and_not_the_other_s(autojump_clock) -> None:
    zone = Zone()
    zone.put("web.example", "A", "10.0.0.1")
    zone.put("web.example", "AAAA", "fd00::1")
    async with shared(source(zone)) as resolution:
        updates = resolution.updates()
        await anext(updates)
        zone.fail("AAAA")
        zone.put("web.example", "A", "10.0.0.1", "10.0.0.2")
        assert await anext(updates) == Add(ends("10.0.0.2"))


async def test_a_name_that_never_was_is_gone_until_it_is(autojump_clock) -> None:
    zone = Zone()
    async with shared(source(zone)) as resolution:
        updates = resolution.updates()
        assert await anext(updates) == Gone("the DNS has no addresses for web.example")
        zone.put("web.example", "A", "10.0.0.1")
        assert await anext(updates) == Reset(ends("10.0.0.1"))
        assert trio.current_time() == pytest.approx(5)


async def test_servers_that_fail_from_the_start_say_nothing_about_the_name(autojump_clock, caplog) -> None:
    zone = Zone()
    zone.answers = {("web.example", kind): Failure("timed out") for kind in ("A", "AAAA")}
    async with shared(source(zone)) as resolution:
        updates = resolution.updates()
        with trio.move_on_after(60):
            pytest.fail(f"heard {await anext(updates)}")
        assert "the DNS can't tell of web.example: timed out" in caplog.text
        zone.put("web.example", "A", "10.0.0.1")
        assert await anext(updates) == Reset(ends("10.0.0.1"))


async def test_srv_records_give_ports_and_weights_of_the_first_priority(autojump_clock) -> None:
    zone = Zone()
    zone.put("_http._tcp.web", "SRV", ("a.web.", 8080, 1, 3), ("b.web.", 8081, 1, 0), ("spare.web.", 80, 2, 1))
    zone.put("a.web.", "A", "10.0.0.1", "10.0.0.2")
    zone.put("b.web.", "A", "10.0.0.3")
    zone.put("spare.web.", "A", "10.0.0.9")
    async with shared(source(zone, "_http._tcp.web")) as resolution:
        updates = resolution.updates()
        wanted = (
            *ends("10.0.0.1", "10.0.0.2", port=8080, weight=1.5),
            *ends("10.0.0.3", port=8081, weight=0.1),
        )
        assert await anext(updates) == Reset(wanted)
        zone.put("a.web.", "A")
        zone.put("b.web.", "A")
        assert await anext(updates) == Reset(ends("10.0.0.9", port=80))


async def test_a_service_that_srv_says_is_not_offered_is_gone(autojump_clock) -> None:
    zone = Zone()
    zone.put("_http._tcp.web", "SRV", (".", 0, 0, 0))
    async with shared(source(zone, "_http._tcp.web")) as resolution:
        assert await anext(resolution.updates()) == Gone("the DNS has no addresses for _http._tcp.web")


async def test_an_ip_address_needs_no_question() -> None:
    zone = Zone()
    async with shared(source(zone, "[fd00::1]:80", zone="a")) as resolution:
        assert await anext(resolution.updates()) == Reset((Endpoint(Address("fd00::1", 80), zone="a"),))
    assert zone.asked == []


async def test_questions_are_counted(autojump_clock) -> None:
    zone = Zone()
    zone.put("web.example", "A", "10.0.0.1")
    async with shared(source(zone)):
        await trio.sleep(1)
    counts = {
        result: current_registry().counter("dns_lookups_total", "", result=result).value
        for result in ("found", "none", "failed")
    }
    assert counts == {"found": 1, "none": 1, "failed": 0}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a" * 64 + ".example:80", "names no host"),
        (".".join(["a" * 60] * 5) + ":80", "names no host"),
        ("web.example", "has no port"),
        ("_http._tcp.web:80", "leave it out"),
        ("unix:/run/web", "names no host"),
        (":80", "names no host"),
    ],
)
def test_names_that_are_none_are_refused(name, problem) -> None:
    with pytest.raises(InvalidConfiguration, match=problem):
        Dns(name)


@pytest.mark.parametrize("options", [{"min_ttl": 0.5}, {"min_ttl": 10, "max_ttl": 5}, {"timeout": 0}])
def test_impossible_times_are_refused(options) -> None:
    with pytest.raises(InvalidConfiguration, match="give"):
        Dns("web.example:80", **options)


def test_its_repr_is_the_call_that_makes_it() -> None:
    assert repr(Dns("web.example:80")) == "Dns('web.example:80')"
    assert repr(Dns("web:80", servers=["10.0.0.53"], zone="a")) == "Dns('web:80', servers=('10.0.0.53',), zone='a')"


async def test_without_dnspython_it_says_which_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(InvalidConfiguration, match=r"pip install 'linkerd-proxy\[dns\]'"):
        async with shared(Dns("web.example:80")):
            pass


async def test_a_server_must_be_an_address() -> None:
    with pytest.raises(InvalidConfiguration, match="must be an IP address"):
        async with shared(Dns("web.example:80", servers=["dns.example"])):
            pass


# --- a real server on loopback -----------------------------------------------------------------


@asynccontextmanager
async def dns_server(answer):
    """Answer questions over UDP on loopback by a function from (name, type) to an rrset, a response code or None."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))

        async def serve() -> None:
            while True:
                data, peer = await sock.recvfrom(4096)
                question = dns.message.from_wire(data)
                response = dns.message.make_response(question)
                asked = question.question[0]
                what = answer(asked.name.to_text(), dns.rdatatype.to_text(asked.rdtype))
                if what is None:
                    continue
                code, *sets = what
                response.set_rcode(code)
                for section, rrset in sets:
                    getattr(response, section).append(rrset)
                await sock.sendto(response.to_wire(), peer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield f"127.0.0.1:{sock.getsockname()[1]}"
            nursery.cancel_scope.cancel()


def soa():
    return "authority", dns.rrset.from_text("example.", 60, "IN", "SOA", "ns.example. root.example. 1 2 3 4 9")


async def test_a_real_server_answers_through_dnspython() -> None:
    def answer(name: str, kind: str):
        match name, kind:
            case "web.example.", "A":
                return (
                    dns.rcode.NOERROR,
                    ("answer", dns.rrset.from_text("web.example.", 40, "IN", "CNAME", "real.example.")),
                    ("answer", dns.rrset.from_text("real.example.", 50, "IN", "A", "10.0.0.1", "10.0.0.2")),
                )
            case "web.example.", "AAAA":
                return dns.rcode.NOERROR, soa()
            case "_http._tcp.example.", "SRV":
                return (
                    dns.rcode.NOERROR,
                    ("answer", dns.rrset.from_text(name, 40, "IN", "SRV", "1 2 8080 web.example.")),
                )
            case "broken.example.", _:
                return (dns.rcode.SERVFAIL,)
            case _:
                return dns.rcode.NXDOMAIN, soa()

    with trio.fail_after(PATIENCE):
        async with dns_server(answer) as server:
            from linkerd_proxy.discover.lookup import make_lookup

            lookup = make_lookup([server], PATIENCE)
            found = await lookup("web.example", "A")
            assert isinstance(found, Found)
            # Servers turn the order round; the alias expires first.
            assert (set(found.records), found.ttl) == ({Record("10.0.0.1"), Record("10.0.0.2")}, 40)
            assert await lookup("web.example", "AAAA") == Found((), 9)
            assert await lookup("none.example", "A") == Found((), 9)
            assert await lookup("_http._tcp.example", "SRV") == Found((Record("web.example.", 8080, 1, 2),), 40)
            failure = await lookup("broken.example", "A")
            assert isinstance(failure, Failure)
            assert "SERVFAIL" in failure.problem
            async with shared(Dns("_http._tcp.example", servers=(server,), timeout=PATIENCE)) as resolution:
                update = await anext(resolution.updates())
            assert update == Reset(ends("10.0.0.1", "10.0.0.2", port=8080, weight=1.0))


async def test_a_real_server_that_says_nothing_is_a_failure_in_time() -> None:
    from linkerd_proxy.discover.lookup import make_lookup

    with trio.fail_after(PATIENCE):
        async with dns_server(lambda *_: None) as server:
            failure = await make_lookup([server], 0.2)("web.example", "A")
    assert isinstance(failure, Failure)
    assert "0.2" in failure.problem


@pytest.mark.parametrize("name", ["localhost:80", "LOCALHOST:80", "localhost.:80", "api.localhost:80"])
async def test_this_host_is_known_without_a_question(name, autojump_clock) -> None:
    """RFC 6761 section 6.3; most servers of a network know nothing of it."""
    zone = Zone()
    async with source(zone, name).open() as resolution:
        assert await anext(resolution.updates()) == Reset(ends("127.0.0.1", "::1"))
    assert zone.asked == []


async def test_a_name_that_only_looks_like_this_host_is_asked_for(autojump_clock) -> None:
    zone = Zone()
    zone.put("notlocalhost", "A", "10.0.0.1")
    async with source(zone, "notlocalhost:80").open() as resolution:
        assert await anext(resolution.updates()) == Reset(ends("10.0.0.1"))
