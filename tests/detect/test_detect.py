"""Connections go down the branch for what they speak, with every byte."""

from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Connection
from linkerd_proxy.detect import Detect
from linkerd_proxy.detect.race import Gate
from linkerd_proxy.detect.sniff import PREFACE
from linkerd_proxy.errors import ConnectFailed, DetectTimeout, InvalidConfiguration
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.testing import memory_connection
from tests.io.test_client_hello import real_hello

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Branch(Stack[Connection]):
    """Reads to the end, and remembers what came as which protocol."""

    name: str
    seen: list[object] = field(default_factory=list, repr=False)

    @asynccontextmanager
    async def open(self):
        async def service(connection: Connection) -> None:
            self.seen.append(connection.protocol)
            self.seen.append(b"".join([bytes(chunk) async for chunk in connection.stream]))

        yield service


@dataclass(frozen=True, slots=True)
class Server(Stack[Connection]):
    """Says something of its own accord, then reads to the end: a server-first protocol behind a forwarder."""

    greeting: bytes = b""
    after: float = 0.0
    half_close: bool = False
    error: Exception | None = None
    log: list[object] = field(default_factory=list, repr=False)

    @asynccontextmanager
    async def open(self):
        async def service(connection: Connection) -> None:
            self.log.append(("start", connection.protocol, trio.current_time()))
            try:
                await trio.sleep(self.after)
                if self.greeting:
                    await connection.stream.send_all(self.greeting)
                if self.error is not None:
                    raise self.error
                if self.half_close:
                    await connection.stream.send_eof()
                async for chunk in connection.stream:
                    self.log.append(bytes(chunk))
                self.log.append("end")
            except trio.Cancelled:
                self.log.append("cancelled")
                raise

        yield service


def branches(**options):
    http, tls, otherwise = Branch("http"), Branch("tls"), Branch("otherwise")
    return Detect(http=http, tls=tls, otherwise=otherwise, **options), http, tls, otherwise


def count(result: str) -> float:
    name = "tcp_detect_results_total"
    return current_registry().counter(name, "Connections by what they spoke", result=result).value


async def run(detect: Detect, *pieces: bytes, end: bool = True, **options) -> None:
    """Send pieces, one a scheduler turn, and serve."""
    client, connection = memory_connection(**options)
    async with opened(detect) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        for piece in pieces:
            await trio.testing.wait_all_tasks_blocked()
            await client.send_all(piece)
        await trio.testing.wait_all_tasks_blocked()
        if end:
            await client.send_eof()


@pytest.mark.parametrize(
    ("data", "branch", "protocol", "result"),
    [
        (GET, "http", "http/1", "http/1"),
        (PREFACE + b"rest", "http", "http/2", "http/2"),
        (b"SSH-2.0-x\r\nrest", "otherwise", "opaque", "not_http"),
        (b"\0", "otherwise", "opaque", "not_http"),
        (b"PRI * HTTP/2.0", "otherwise", "opaque", "not_http"),
        (b"G", "otherwise", "opaque", "not_http"),
    ],
)
async def test_bytes_choose_the_branch_and_are_all_there(autojump_clock, data, branch, protocol, result) -> None:
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        detect, http, tls, otherwise = branches()
        before = count(result)
        await run(detect, *pieces)
        seen = {"http": http.seen, "tls": tls.seen, "otherwise": otherwise.seen}
        assert seen.pop(branch) == [protocol, data]
        assert not any(seen.values())
        assert count(result) == before + 1


async def test_a_client_hello_goes_to_tls_which_reads_it_again(autojump_clock) -> None:
    hello = real_hello()
    detect, _, tls, _ = branches()
    await run(detect, hello[:7], hello[7:] + b"early")
    assert tls.seen == [None, hello + b"early"]
    assert count("tls") == 1


async def test_a_client_hello_without_a_branch_for_it_is_opaque(autojump_clock) -> None:
    otherwise = Branch("otherwise")
    await run(Detect(http=Branch("http"), otherwise=otherwise), hello := real_hello())
    assert otherwise.seen == ["opaque", hello]
    assert count("tls") == 1


async def test_http_without_a_branch_for_it_goes_on_with_its_protocol(autojump_clock) -> None:
    otherwise = Branch("otherwise")
    await run(Detect(tls=Branch("tls"), otherwise=otherwise), GET)
    assert otherwise.seen == ["http/1", GET]


async def test_a_client_that_says_nothing_and_leaves_just_ends(autojump_clock) -> None:
    detect, http, tls, otherwise = branches()
    await run(detect)
    assert not http.seen + tls.seen + otherwise.seen
    assert count("eof") == 1


async def test_a_client_that_breaks_off_just_ends(autojump_clock) -> None:
    class Broken(trio.abc.HalfCloseableStream):
        async def receive_some(self, max_bytes=None):
            raise trio.BrokenResourceError

        async def send_all(self, data): ...
        async def send_eof(self): ...
        async def aclose(self): ...
        async def wait_send_all_might_not_block(self): ...

    detect, *_ = branches()
    _, connection = memory_connection()
    async with opened(detect) as service:
        await service(connection.with_stream(Broken()))
    assert count("error") == 1


async def test_what_a_branch_raises_passes_through_even_if_it_looks_like_the_client(autojump_clock) -> None:
    _, connection = memory_connection()
    failing = Server(error=trio.BrokenResourceError("upstream"))
    client, connection = memory_connection()
    await client.send_all(GET)
    async with opened(Detect(http=failing, otherwise=Branch("otherwise"))) as service:
        with pytest.raises(trio.BrokenResourceError, match="upstream"):
            await service(connection)
    assert count("error") == 0


@pytest.mark.parametrize(
    ("local", "original", "opaque"),
    [
        (Address("127.0.0.1", 3306), None, True),
        (Address("127.0.0.1", 80), None, False),
        (Address("127.0.0.1", 4140), Address("10.0.0.1", 25), True),
        (Address("127.0.0.1", 3306), Address("10.0.0.1", 80), False),
        (UnixAddress("/run/a"), None, False),
    ],
)
async def test_opaque_ports_are_not_looked_at(autojump_clock, local, original, opaque) -> None:
    detect, http, _, otherwise = branches()
    await run(detect, GET, local=local, original_dst=original)
    assert (otherwise.seen if opaque else http.seen) == ["opaque" if opaque else "http/1", GET]
    assert count("opaque_port") == opaque


@pytest.mark.parametrize(("protocol", "name"), [("http/1", "http"), ("http/2", "http"), ("opaque", "otherwise")])
async def test_a_known_protocol_is_believed(autojump_clock, protocol, name) -> None:
    detect, http, _, otherwise = branches()
    await run(detect, b"\0", protocol=protocol)
    assert {"http": http, "otherwise": otherwise}[name].seen == [protocol, b"\0"]


# --- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("race", [None, 0.3, 20.0])
@pytest.mark.parametrize("said", [b"", b"GE", b"\x16\x03"])
async def test_silence_goes_on_as_opaque(autojump_clock, race, said) -> None:
    detect, _, _, otherwise = branches(race=race)
    client, connection = memory_connection()
    await client.send_all(said)
    async with opened(detect) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        await trio.sleep(9.9)
        assert not otherwise.seen or (race == 0.3 and not said)
        await trio.sleep(0.2)
        assert otherwise.seen == ["opaque"]
        await client.send_all(b"at last")
        await client.send_eof()
    assert otherwise.seen == ["opaque", said + b"at last"]
    assert count("partial" if said else "timeout") == 1


async def test_silence_may_go_to_http_which_finds_out_for_itself(autojump_clock) -> None:
    detect, http, _, otherwise = branches(on_timeout="http", timeout=1)
    client, connection = memory_connection()
    async with opened(detect) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        await trio.sleep(2)
        await client.send_all(GET)
        await client.send_eof()
    assert http.seen == [None, GET]
    assert otherwise.seen == ["opaque"]  # the attempt that was given up


@pytest.mark.parametrize("race", [None, 0.3, 20.0])
async def test_the_race_may_go_on_so_that_late_bytes_decide_as_early_ones_do(autojump_clock, race) -> None:
    hello = real_hello()
    for pieces, branch in (
        ([GET], "http"),
        ([GET[:2], GET[2:]], "http"),
        ([hello[:9], hello[9:]], "tls"),
        ([b"\0"], "otherwise"),
    ):
        detect, http, tls, otherwise = branches(on_timeout="race", on_partial="close", race=race)
        client, connection = memory_connection()
        async with opened(detect) as service, trio.open_nursery() as nursery:
            nursery.start_soon(service, connection)
            await trio.sleep(60)
            for piece in pieces:
                await client.send_all(piece)
                await trio.sleep(5)
            await client.send_eof()
        assert {"http": http, "tls": tls, "otherwise": otherwise}[branch].seen[-1] == b"".join(pieces)
    assert count("timeout") == count("partial") == 0


@pytest.mark.parametrize("ends", [5.0, 30.0])
async def test_a_race_that_both_gave_up_is_over(autojump_clock, ends) -> None:
    _, connection = memory_connection()
    gone = Server(after=ends, half_close=True)
    async with opened(Detect(http=Branch("h"), otherwise=gone, on_timeout="race")) as service:
        with trio.fail_after(100), pytest.raises(DetectTimeout):
            await service(connection)
    assert trio.current_time() == pytest.approx(max(10, ends + 0.3))


async def test_a_server_may_speak_first_however_late(autojump_clock) -> None:
    client, connection = memory_connection()
    detect = Detect(http=Branch("h"), otherwise=Server(b"220 ready", after=30), on_timeout="race")
    async with opened(detect) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        assert await client.receive_some() == b"220 ready"
        await client.send_eof()
    assert count("server_first") == 1


async def test_too_few_bytes_may_be_an_error_that_explains_itself(autojump_clock) -> None:
    detect, *_ = branches(on_partial="close", timeout=2, race=None)
    client, connection = memory_connection()
    await client.send_all(b"GE")
    async with opened(detect) as service:
        with pytest.raises(DetectTimeout) as caught:
            await service(connection)
    assert trio.current_time() == pytest.approx(2)
    assert str(caught.value) == (
        "Detect: the client sent 2 bytes, too few to tell what it speaks after 2 s; "
        "list the port in opaque_ports if its server speaks first"
    )


@pytest.mark.parametrize(("said", "closed"), [(b"", False), (b"GE", True)])
async def test_silence_and_too_few_bytes_each_have_a_policy(autojump_clock, said, closed) -> None:
    detect, _, _, otherwise = branches(on_timeout="otherwise", on_partial="close", timeout=2, race=None)
    client, connection = memory_connection()
    if said:
        await client.send_all(said)
    async with opened(detect) as service, trio.open_nursery() as nursery:
        with pytest.raises(DetectTimeout) if closed else nullcontext():
            with trio.move_on_after(3):
                await service(connection)
        nursery.cancel_scope.cancel()
    assert otherwise.seen == ([] if closed else ["opaque"])


async def test_trickling_bytes_do_not_move_the_deadline(autojump_clock) -> None:
    detect, *_ = branches(on_partial="close", timeout=5)
    client, connection = memory_connection()

    async def trickle() -> None:
        for _ in range(100):
            await client.send_all(b"B")
            await trio.sleep(1)

    async with opened(detect) as service, trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        with pytest.raises(DetectTimeout):
            await service(connection)
        nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(5)


@pytest.mark.parametrize("said", [b"", b"GE"])
@pytest.mark.parametrize("wait", [0.1, 1.0])
async def test_a_cancellation_from_outside_stays_one(autojump_clock, said, wait) -> None:
    detect, *_ = branches()
    client, connection = memory_connection()
    await client.send_all(said)
    async with opened(detect) as service:
        with trio.move_on_after(wait) as scope:
            await service(connection)
        assert scope.cancelled_caught
    await connection.stream.send_all(b"still open")
    assert await client.receive_some() == b"still open"
    assert sum(count(result) for result in ("timeout", "error", "eof", "server_first")) == 0


# --- the race ----------------------------------------------------------------------------------


async def test_a_server_that_speaks_first_is_heard_at_once(autojump_clock) -> None:
    server = Server(greeting=b"220 hello\r\n", after=0.05)
    client, connection = memory_connection()
    async with opened(Detect(http=Branch("http"), otherwise=server)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        assert await client.receive_some() == b"220 hello\r\n"
        assert trio.current_time() == pytest.approx(0.35)
        # What would be HTTP is the server's all the same: it spoke first.
        await client.send_all(GET)
        await client.send_eof()
    assert server.log == [("start", "opaque", pytest.approx(0.3)), GET, "end"]
    assert count("server_first") == 1
    assert count("http/1") == 0


async def test_a_client_that_speaks_first_calls_the_attempt_off(autojump_clock) -> None:
    server, http = Server(greeting=b"late", after=5), Branch("http")
    client, connection = memory_connection()
    async with opened(Detect(http=http, otherwise=server)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        await trio.sleep(1)
        await client.send_all(GET[:3])
        await trio.sleep(1)
        assert server.log == [("start", "opaque", pytest.approx(0.3)), "cancelled"]
        await client.send_all(GET[3:])
        await client.send_eof()
    assert http.seen == ["http/1", GET]
    assert count("server_first") == 0


async def test_a_client_of_another_protocol_is_served_anew(autojump_clock) -> None:
    server = Server()
    client, connection = memory_connection()
    async with opened(Detect(http=Branch("http"), otherwise=server)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        await trio.sleep(1)
        await client.send_all(b"\0binary")
        await client.send_eof()
    assert server.log[1:] == ["cancelled", ("start", "opaque", pytest.approx(1)), b"\0binary", "end"]


async def test_both_speaking_in_one_turn_loses_nothing(autojump_clock) -> None:
    """The client's bytes were received when the server's decided: they come first out of the gate."""
    server = Server(greeting=b"hi", after=0.7)
    client, connection = memory_connection()

    async def speak() -> None:
        await trio.sleep(1.0)
        await client.send_all(b"GET /")

    async with opened(Detect(http=(http := Branch("http")), otherwise=server)) as service:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service, connection)
            nursery.start_soon(speak)
            await trio.sleep(2)
            await client.send_eof()
        outcome = (http.seen, [entry for entry in server.log if isinstance(entry, bytes)])
    assert outcome in ((["http/1", b"GET /"], []), ([], [b"GET /"]))


@pytest.mark.parametrize("failure", [ConnectFailed("refused"), OSError("broken")])
async def test_an_attempt_that_fails_leaves_the_client_its_chance(autojump_clock, failure) -> None:
    server, http = Server(error=failure), Branch("http")
    client, connection = memory_connection()
    async with opened(Detect(http=http, otherwise=server)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        await trio.sleep(1)
        await client.send_all(GET)
        await client.send_eof()
    assert http.seen == ["http/1", GET]


async def test_a_failure_after_the_server_spoke_is_the_connections(autojump_clock) -> None:
    server = Server(greeting=b"hi", error=ConnectFailed("gone"))
    _, connection = memory_connection()
    async with opened(Detect(http=Branch("http"), otherwise=server)) as service:
        with pytest.raises(ConnectFailed, match="gone"):
            await service(connection)


async def test_a_server_that_ends_without_a_byte_did_not_speak(autojump_clock) -> None:
    server, http = Server(half_close=True), Branch("http")
    client, connection = memory_connection()
    async with opened(Detect(http=http, otherwise=server)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        await trio.sleep(1)
        assert server.log[1:] == ["cancelled"]
        await client.send_all(GET)
        await client.send_eof()
    assert http.seen == ["http/1", GET]


async def test_a_client_that_leaves_during_the_race_ends_it(autojump_clock) -> None:
    server = Server()
    client, connection = memory_connection()
    async with opened(Detect(http=Branch("http"), otherwise=server)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        await trio.sleep(1)
        await client.aclose()
    assert server.log[1:] == ["cancelled"]
    assert count("eof") == 1


async def test_an_attempt_that_returned_is_repeated_at_the_deadline(autojump_clock) -> None:
    server = Server(error=ConnectFailed("refused"))
    _, connection = memory_connection()
    async with opened(Detect(http=Branch("http"), otherwise=server)) as service:
        with pytest.raises(ConnectFailed):
            await service(connection)
    assert [entry[2] for entry in server.log] == [pytest.approx(0.3), pytest.approx(10)]


# --- configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "give it http=..., tls=... or both"),
        ({"http": Branch("h"), "timeout": 0}, "Detect\\(timeout=0\\)"),
        ({"http": Branch("h"), "race": -1}, "Detect\\(race=-1\\)"),
        ({"http": Branch("h"), "on_timeout": "wait"}, "'otherwise', 'http', 'close', 'race'"),
        ({"tls": Branch("t"), "on_timeout": "http"}, "give http="),
        ({"http": Branch("h"), "on_partial": "race"}, "on_partial='race'"),
    ],
)
def test_impossible_options_are_refused(options, text) -> None:
    with pytest.raises(InvalidConfiguration, match=text):
        Detect(otherwise=Branch("o"), **options)


def test_the_tree_shows_the_branches_and_what_was_changed() -> None:
    detect = Detect(http=Branch("h"), otherwise=Branch("o"), timeout=3, opaque_ports=frozenset({70, 25}))
    assert str(detect).splitlines() == [
        "Detect(timeout=3, opaque_ports={25, 70})",
        "├─ http: Branch(name='h')",
        "└─ otherwise: Branch(name='o')",
    ]


@given(st.binary(max_size=40), st.lists(st.integers(1, 9), max_size=9))
def test_any_bytes_in_any_splits_are_replayed_exactly(data: bytes, sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in [*sizes, len(data)]:
        pieces.append(data[at : at + size])
        at += size
    detect, http, tls, otherwise = branches()
    trio.run(lambda: run(detect, *filter(None, pieces)), clock=trio.testing.MockClock(autojump_threshold=0))
    seen = http.seen + tls.seen + otherwise.seen
    assert seen[1:] == ([data] if data else [])


async def test_the_gate_gives_out_what_was_heard_in_the_turn_in_which_it_opened(autojump_clock) -> None:
    client, connection = memory_connection()
    reasons = []
    gate = Gate(connection.stream, attempt := trio.CancelScope(), reasons.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.listen, 10.0, True)
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b"mine")  # wakes the listener, which has not run yet when the server's byte comes
        await gate.send_all(b"server's")
        await client.send_all(b" and more")
        assert await gate.receive_some(2) == b"mi"
        assert await gate.receive_some() == b"ne"
        assert await gate.receive_some() == b" and more"
    assert await client.receive_some() == b"server's"
    assert (reasons, gate.state, attempt.cancel_called) == (["server_first"], "open", False)
    assert repr(gate).startswith("<Gate open: ")


async def test_a_shut_gate_lets_nothing_through(autojump_clock) -> None:
    client, connection = memory_connection()
    gate = Gate(connection.stream, attempt := trio.CancelScope(), lambda reason: None)
    await client.send_all(b"first")
    await gate.listen(10.0, adopt=True)
    assert (gate.heard, gate.state, attempt.cancel_called) == (b"first", "shut", True)
    with pytest.raises(trio.BrokenResourceError, match="client spoke first"):
        await gate.send_all(b"too late")
    with pytest.raises(trio.BrokenResourceError):
        await gate.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await gate.send_eof()
    gate.abort()
    await gate.aclose()
    await connection.stream.send_all(b"untouched")
    assert await client.receive_some() == b"untouched"
