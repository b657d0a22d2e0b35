import pytest
import trio
from trio.testing import memory_stream_pair

from linkerd_proxy.address import Address
from linkerd_proxy.core.message import Body, Request, Response, Whole
from linkerd_proxy.core.work import Connection, Dial, Exchange, Target, Tls
from linkerd_proxy.errors import ConnectFailed, UpstreamReset
from linkerd_proxy.headers import Headers
from linkerd_proxy.io.dial import dial
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.io.rewind import Rewound
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.registry import current_registry

HERE = Address("127.0.0.1", 1)


def samples(*names):
    """Return the series of these families as {name: {labels without the empty ones: value or count}}."""
    registry = current_registry()
    registry.collect()
    found = {}
    for family in registry:
        for labels, series in family.series.items():
            key = ",".join(f"{name}={value}" for name, value in labels if value)
            value = series.count if family.kind == "histogram" else series.value
            found.setdefault(family.name, {})[key] = value
    return [found.get(name, {}) for name in names]


def connection(stream=None):
    return Connection(stream or memory_stream_pair()[0], HERE, HERE)


def exchange(request, sent=None):
    async def respond(response):
        body = await response.body.read()
        if sent is not None:
            sent.append((response.status, body))

    return Exchange(request, respond, connection())


def answering(response):
    async def inner(work):
        await work.respond(response)

    return inner


class TestExchanges:
    async def test_answers_are_in_the_registry_when_somebody_reads_it_and_when_the_layer_has_closed(self):
        def values():
            return [
                series.count if family.kind == "histogram" else series.value
                for family in current_registry()
                if family.name in {"response_total", "response_latency_ms"}
                for series in family.series.values()
            ]

        async with Metrics().open(answering(Response(200))) as service:
            for number in range(1, 602):
                await service(exchange(Request()))
                if number in {1, 600}:
                    current_registry().collect()
                    assert values() == [number, number]
        assert values() == [601, 601]

    async def test_an_answer_counts_when_its_last_byte_has_left(self, autojump_clock):
        class Slow(Body):
            step = 0

            async def pull(self):
                await trio.sleep(1)
                self.step += 1
                return b"x" if self.step < 4 else b""

        async with Metrics().open(answering(Response(200, (), Slow()))) as service, trio.open_nursery() as nursery:
            nursery.start_soon(service, exchange(Request()))
            await trio.sleep(3.5)
            assert samples("request_total", "request_in_flight", "response_total") == [
                {"protocol=http/1": 1},
                {"protocol=http/1": 1},
                {},
            ]
            await trio.sleep(1)
            assert samples("request_in_flight", "response_total") == [
                {"protocol=http/1": 0},
                {"classification=success,protocol=http/1,status_code=200": 1},
            ]
        latency = current_registry().histogram("response_latency_ms", "", protocol="http/1", status_code="200")
        assert (latency.count, latency.total) == (1, pytest.approx(4000))

    @pytest.mark.parametrize(
        ("status", "headers", "expected"),
        [
            (200, (), "classification=success,protocol=http/1,status_code=200"),
            (404, (), "classification=success,protocol=http/1,status_code=404"),
            (
                404,
                [("l5d-proxy-error", "NR no route")],
                "classification=failure,error=NR,protocol=http/1,status_code=404",
            ),
            (503, (), "classification=failure,protocol=http/1,status_code=503"),
            (
                502,
                [("l5d-proxy-error", "UF no one")],
                "classification=failure,error=UF,protocol=http/1,status_code=502",
            ),
            (502, [("l5d-proxy-error", "chosen by a peer")], "classification=failure,protocol=http/1,status_code=502"),
        ],
    )
    async def test_classification(self, status, headers, expected):
        async with Metrics().open(answering(Response(status, headers))) as service:
            await service(exchange(Request()))
        assert samples("response_total") == [{expected: 1}]

    @pytest.mark.parametrize(
        ("trailer", "expected"),
        [
            ("0", "classification=success,grpc_status=0"),
            ("5", "classification=success,grpc_status=5"),
            ("14", "classification=failure,grpc_status=14"),
            ("chosen", "classification=failure,grpc_status=2"),
        ],
    )
    @pytest.mark.parametrize("in_head", [True, False])
    async def test_grpc_by_trailers_or_by_the_head_of_an_answer_without_a_body(self, trailer, expected, in_head):
        fields = [("grpc-status", trailer)]
        response = Response(200, fields) if in_head else Response(200, (), Whole(b"x", Headers(fields)))
        async with Metrics().open(answering(response)) as service:
            await service(exchange(Request("POST", "/", [("content-type", "application/grpc")], version="2")))
        assert samples("response_total") == [{f"{expected},protocol=http/2,status_code=200": 1}]

    async def test_a_body_that_fails_is_a_failure_with_its_code(self):
        class Broken(Body):
            async def pull(self):
                await trio.lowlevel.checkpoint()
                raise UpstreamReset("gone")

        async with Metrics().open(answering(Response(200, (), Broken()))) as service:
            with pytest.raises(UpstreamReset):
                await service(exchange(Request()))
        assert samples("response_total", "request_in_flight") == [
            {"classification=failure,error=UR,protocol=http/1,status_code=200": 1},
            {"protocol=http/1": 0},
        ]

    async def test_a_body_that_is_cut_by_an_inner_deadline_has_that_deadlines_code(self, autojump_clock):
        class Endless(Body):
            async def pull(self):
                await trio.sleep(1)
                return b"x"

        async def inner(work):
            with trio.move_on_after(2.5):
                await work.respond(Response(200, (), Endless()))
            raise UpstreamReset("too late")

        async with Metrics().open(inner) as service:
            with pytest.raises(UpstreamReset):
                await service(exchange(Request()))
        assert samples("response_total") == [{"classification=failure,error=UR,protocol=http/1,status_code=200": 1}]

    async def test_a_client_that_goes_away_is_a_cancel(self, autojump_clock):
        async def inner(work):
            await trio.sleep_forever()

        async with Metrics().open(inner) as service:
            with trio.move_on_after(1):
                await service(exchange(Request(version="2")))
        assert samples("response_total", "request_in_flight") == [
            {"classification=failure,error=CANCEL,protocol=http/2": 1},
            {"protocol=http/2": 0},
        ]

    @pytest.mark.parametrize(("failure", "code"), [(UpstreamReset("x"), "UR"), (KeyError(), "BUG"), (OSError(), "IO")])
    async def test_an_exchange_that_fails_without_an_answer(self, failure, code):
        async def inner(work):
            raise failure

        async with Metrics().open(inner) as service:
            with pytest.raises(type(failure)):
                await service(exchange(Request()))
        assert samples("response_total") == [{f"classification=failure,error={code},protocol=http/1": 1}]

    async def test_a_return_without_an_answer(self):
        async def inner(work):
            await trio.lowlevel.checkpoint()

        async with Metrics().open(inner) as service:
            await service(exchange(Request()))
        assert samples("response_total") == [{"classification=failure,error=NA,protocol=http/1": 1}]

    async def test_informational_answers_pass_uncounted(self):
        async def inner(work):
            await work.respond(Response(103))
            await work.respond(Response(200))

        sent = []
        async with Metrics().open(inner) as service:
            await service(exchange(Request(), sent))
        assert sent == [(103, b""), (200, b"")]
        assert samples("response_total") == [{"classification=success,protocol=http/1,status_code=200": 1}]

    @pytest.mark.parametrize(
        ("request_", "status"), [(Request("CONNECT", ""), 200), (Request(upgrade="websocket"), 101)]
    )
    async def test_a_tunnels_life_is_no_latency(self, request_, status):
        async with Metrics().open(answering(Response(status))) as service:
            await service(exchange(request_))
        assert sum(samples("response_latency_ms")[0].values()) == 0
        assert sum(samples("response_total")[0].values()) == 1

    async def test_what_an_upstream_chooses_never_fills_the_memory(self):
        response = Response()

        async def inner(work):
            await work.respond(response)

        request = Request("POST", "/", [("content-type", "application/grpc")], version="2")
        async with Metrics().open(inner) as service:
            for status in range(200, 600):
                for grpc in range(4):
                    response = Response(status, [("grpc-status", str(grpc))])
                    await service(exchange(request))
        (family,) = [family for family in current_registry() if family.name == "response_total"]
        assert len(family.series) <= 1001

    async def test_two_layers_with_labels_are_told_apart(self):
        inner = answering(Response())
        async with (
            Metrics({"direction": "out"}).open(inner) as outbound,
            Metrics({"direction": "in"}).open(outbound) as inbound,
        ):
            await inbound(exchange(Request()))
        assert samples("request_total") == [{"direction=in,protocol=http/1": 1, "direction=out,protocol=http/1": 1}]


class TestConnections:
    async def test_bytes_of_any_stream_are_counted_and_told_while_it_is_open(self):
        near, far = memory_stream_pair()

        async def inner(work):
            await work.stream.send_all(await work.stream.receive_some() + b"!")
            assert samples("tcp_open_connections", "tcp_read_bytes_total", "tcp_write_bytes_total") == [
                {"peer=src,protocol=opaque": 1},
                {"peer=src,protocol=opaque": 5},
                {"peer=src,protocol=opaque": 6},
            ]

        async with Metrics[Connection]().open(inner) as service:
            await far.send_all(b"hello")
            await service(Connection(near, HERE, HERE, protocol="opaque"))
        assert await far.receive_some() == b"hello!"
        assert samples(
            "tcp_open_total",
            "tcp_open_connections",
            "tcp_close_total",
            "tcp_read_bytes_total",
            "tcp_connection_duration_ms",
        ) == [
            {"peer=src,protocol=opaque": 1},
            {"peer=src,protocol=opaque": 0},
            {"peer=src,protocol=opaque": 1},
            {"peer=src,protocol=opaque": 5},
            {"peer=src,protocol=opaque": 1},
        ]

    async def test_a_socket_counts_for_itself_what_was_put_back_included(self):
        (listener,) = await open_listeners("127.0.0.1:0")
        seen = []

        async def inner(work):
            seen.append(work.stream)
            while await work.stream.receive_some():
                pass

        async with Metrics[Connection]().open(inner) as service, await dial(listener.address) as client:
            accepted = await listener.accept()
            await client.send_all(b"GET /")
            peeked = Rewound(accepted.stream, await accepted.stream.receive_some())
            await client.send_all(b"rest")
            await client.send_eof()
            await service(accepted.with_stream(peeked))
            await accepted.stream.aclose()
        await listener.aclose()
        assert seen == [peeked]  # nothing was put around it, so a relay still sees the socket
        assert samples("tcp_read_bytes_total") == [{"peer=src": 9}]

    @pytest.mark.parametrize(("failure", "code"), [(UpstreamReset("x"), "UR"), (trio.BrokenResourceError(), "IO")])
    async def test_a_failure_closes_with_its_code(self, failure, code):
        async def inner(work):
            raise failure

        async with Metrics[Connection]().open(inner) as service:
            with pytest.raises(type(failure)):
                await service(connection())
        assert samples("tcp_close_total") == [{f"error={code},peer=src": 1}]

    async def test_cancellation_closes_as_cancel(self, autojump_clock):
        async def inner(work):
            await trio.sleep_forever()

        async with Metrics[Connection]().open(inner) as service:
            with trio.move_on_after(1):
                await service(connection())
        assert samples("tcp_close_total", "tcp_open_connections") == [{"error=CANCEL,peer=src": 1}, {"peer=src": 0}]


async def _use(stream):
    raise AssertionError("there is no connection to use")


class TestDials:
    async def test_the_connection_of_a_dial_is_counted(self):
        near, far = memory_stream_pair()

        async def inner(work):
            await work.use(near)

        async def use(stream):
            await stream.send_all(b"hello")

        async with Metrics[Dial]().open(inner) as service:
            await service(Dial(Target(protocol="http/2"), use))
        assert await far.receive_some() == b"hello"
        assert samples("tcp_open_total", "tcp_close_total", "tcp_write_bytes_total", "tcp_connect_failure_total") == [
            {"peer=dst,protocol=http/2": 1},
            {"peer=dst,protocol=http/2": 1},
            {"peer=dst,protocol=http/2": 5},
            {},
        ]

    async def test_a_dial_that_gets_none_is_a_failure_to_connect(self):
        async def inner(work):
            raise ConnectFailed("refused")

        async with Metrics[Dial]().open(inner) as service:
            with pytest.raises(ConnectFailed):
                await service(Dial(Target(), _use))
        assert samples("tcp_open_total", "tcp_connect_failure_total") == [{"peer=dst": 0}, {"error=UF": 1}]


class TestClassification:
    async def test_answers_are_judged_by_whom_one_names(self):
        def strict(status, grpc_status, error):
            return "failure" if status == 404 else "success"

        async with Metrics(classify=strict).open(answering(Response(404))) as service:
            await service(exchange(Request()))
        async with Metrics(classify=strict).open(answering(Response(503))) as service:
            await service(exchange(Request()))
        assert samples("response_total") == [
            {
                "classification=failure,protocol=http/1,status_code=404": 1,
                "classification=success,protocol=http/1,status_code=503": 1,
            }
        ]
        assert repr(Metrics(classify=strict)).startswith("Metrics(classify=<function")


def test_repr_tells_the_labels():
    assert repr(Metrics()) == "Metrics()"
    assert repr(Metrics[Connection]({"a": "b"})) == "Metrics({'a': 'b'})"
    assert Metrics({"a": "b"}) == Metrics({"a": "b"})


class TestIdentities:
    async def test_requests_and_connections_of_mesh_clients_tell_who_they_are(self):
        made = Connection(memory_stream_pair()[0], HERE, HERE, tls=Tls(peer_identity="web.mesh"), protocol="http/1")
        work = exchange(Request("GET", "/"))
        work.connection = made

        async def answer(work):
            await work.respond(Response(200))

        async with Metrics().open(answer) as service:
            await service(work)

        async def leave(_):
            await trio.lowlevel.checkpoint()

        async with Metrics[Connection]().open(leave) as serve_connection:
            await serve_connection(made)
        requests, opened = samples("request_total", "tcp_open_total")
        assert requests == {"client_id=web.mesh,protocol=http/1,tls=true": 1}
        assert opened == {"client_id=web.mesh,peer=src,protocol=http/1,tls=true": 1}

    async def test_dials_tell_whom_they_are_for_and_stay_on_somebodys_behalf(self):
        seen = []

        async def connect(dial):
            seen.append((dial.client, dial.destination))
            await dial.use(memory_stream_pair()[0])

        async def use(stream):
            await trio.lowlevel.checkpoint()

        async with Metrics[Dial]().open(connect) as service:
            await service(Dial(Target(identity="db.mesh", protocol="opaque"), use, client=HERE, destination=HERE))
        assert seen == [(HERE, HERE)]
        assert samples("tcp_open_total") == [{"peer=dst,protocol=opaque,server_id=db.mesh,tls=true": 1}]
