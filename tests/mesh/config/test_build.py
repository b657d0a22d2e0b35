"""What a file describes and what a script puts together are the same layers."""

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linkerd_proxy.address import Address, parse_address
from linkerd_proxy.core.message import Response
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.document.load import parse
from linkerd_proxy.document.tree import InvalidDocument
from linkerd_proxy.errors import HandshakeFailed, InvalidConfiguration, NoRoute
from linkerd_proxy.mesh.config.build import build
from linkerd_proxy.mesh.config.dispatch import ByListener, OnlyTls
from linkerd_proxy.mesh.config.listeners import ProxyProtocolEntry
from linkerd_proxy.mesh.config.read import structure
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.testing import Authority, http_origin, memory_connection, serving, tcp_origin
from linkerd_proxy.tls.files import Files
from linkerd_proxy.tls.originate import Originate
from tests.mesh.config.documents import documents, mutations
from tests.mesh.config.serving import document, get, served, write_identity


def drawn(text) -> list[str]:
    """Return the lines of the tree, without what is at their ends."""
    return str(build(document(text))).splitlines()


BACKENDS = """
backends:
  api: {endpoints: [10.0.0.1:80]}
  old: {endpoints: [10.0.0.2:80]}
"""


# --- the tree ------------------------------------------------------------------------------------


def test_a_listener_with_a_backend_detects_and_has_everything_in_its_place() -> None:
    lines = drawn("listeners: {web: {address: ':80', backend_refs: [api]}}\n" + BACKENDS)
    words = [line.lstrip("│├└─ ").split("(")[0] for line in lines]
    http = ["http: Metrics", "Http", "Metrics", "Tap", "Rescue", "Balance", "each endpoint: Client", "Towards"]
    raw = ["otherwise: Metrics", "Tap", "Forward", "Balance", "each endpoint: Towards"]
    assert words == ["Detect", *http, "Metrics", "Connect", *raw, "Metrics", "Connect"]


def test_only_what_is_needed_is_there() -> None:
    http = drawn("listeners: {web: {address: ':80', protocol: http, backend_refs: [api]}}\n" + BACKENDS)
    assert http[:2] == ["Metrics({'listener': 'web'})", "Http()"]
    tcp = drawn("listeners: {web: {address: ':80', protocol: tcp, backend_refs: [api]}}\n" + BACKENDS)
    assert tcp[:3] == ["Metrics({'listener': 'web'})", "Tap({'listener': 'web'})", "Forward()"]


def test_routes_alone_are_http_and_destinations_alone_are_tcp() -> None:
    rules = "routes: [{rules: [{backend_refs: [api]}]}]"
    assert drawn(f"listeners: {{web: {{address: ':80', {rules}}}}}\n{BACKENDS}")[1] == "Http()"
    routes = "tcp_routes: [{destinations: ['*'], backend_refs: [api]}]"
    assert drawn(f"listeners: {{web: {{address: ':80', {routes}}}}}\n{BACKENDS}")[2] == "OpaqueRoute()"


def test_layers_of_a_listener_and_of_a_backend_stand_in_order() -> None:
    lines = drawn(
        """
access_log: {format: json}
trace: {endpoint: "http://127.0.0.1:4318"}
listeners:
  web:
    address: ":80"
    protocol: http
    policy: deny
    rate_limit: {total: 10}
    limit: {in_flight: 5}
    timeouts: {request: 3s}
    proxy_protocol: {}
    backend_refs: [api]
backends:
  api:
    endpoints: [10.0.0.1:80]
    timeouts: {idle: 1s}
    limit: {in_flight: 2}
    retry: {limit: 3}
    hedge: {delay: 50ms}
    breaker: off
    balance: {pick: round_robin}
"""
    )
    words = [line.split("(")[0] for line in lines]
    before = ["ProxyProtocol", "Metrics", "Http", "AccessLog", "Trace", "Metrics", "Tap", "Rescue"]
    mine = ["Authorize", "RateLimit", "Limit", "Timeouts"]
    assert words[: len(before + mine) + 5] == [*before, *mine, "Timeouts", "Limit", "Retry", "Hedge", "Balance"]
    assert "pick=RoundRobin(), breaker=None, name='api'" in lines[len(before + mine) + 4]


def test_a_backend_that_is_named_twice_is_one_object() -> None:
    text = """
listeners:
  one: {address: ":80", protocol: http, backend_refs: [api]}
  two: {address: ":81", protocol: http, backend_refs: [api]}
"""
    stack = build(document(text + BACKENDS))
    assert isinstance(stack, ByListener)
    one, two = (listener.end.end for listener in stack.stacks.values())
    assert one is two


def test_rules_have_filters_policies_and_tries() -> None:
    lines = drawn(
        """
listeners:
  web:
    address: ":80"
    routes:
      - hostnames: [a.example]
        rules:
          - matches: [{path: {type: Exact, value: /x}, method: GET, query_params: {q: "1"}}]
            policy: all-authenticated
            rate_limit: {identity: 1}
            filters:
              - {type: RequestHeaderModifier, set: {a: b}}
              - {type: ResponseHeaderModifier, remove: [server]}
              - {type: URLRewrite, hostname: b.example}
              - {type: RequestMirror, backend_ref: old, ratio: 0.5}
              - {type: FailureInjector, ratio: 0.1, grpc_status: unavailable, delay: 1s}
            timeouts: {request: 5s}
            retry: {limit: 2}
            backend_refs: [{name: api, weight: 9}, old]
    grpc_routes:
      - rules: [{matches: [{service: pkg.Greeter}], backend_refs: [api]}]
"""
        + BACKENDS
    )
    names = ["Authorize", "RateLimit", "RequestHeaderModifier", "ResponseHeaderModifier", "Rewrite", "Mirror", "Inject"]
    (start,) = [index for index, line in enumerate(lines) if "a.example GET =/x ?q=1: Authorize" in line]
    found = [line.split("(")[0].split()[-1] for line in lines[start : start + 10] if "─ copies" not in line]
    assert found == [*names, "Timeouts", "Retry", "Split"]
    assert any("grpc pkg.Greeter/*: " in line for line in lines)


# --- what can't be ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listener", "told"),
    [
        ("{address: ':1'}", "leads nowhere"),
        ("{address: ':1', protocol: tcp, routes: [{rules: [{backend_refs: [api]}]}]}", "routes are for HTTP"),
        ("{address: ':1', protocol: http, tcp_routes: [{destinations: ['*'], backend_refs: [api]}]}", "not for HTTP"),
        ("{address: ':1', protocol: detect, routes: [{rules: [{backend_refs: [api]}]}]}", "give backend_refs too"),
        ("{address: ':1', detect_timeout: 0s, backend_refs: [api]}", "give more"),
        ("{address: ':1', routes: [{rules: [{}]}]}", "the rule goes nowhere"),
        ("{address: ':1', tls: {certificate: a.pem}, backend_refs: [api]}", "goes with its key"),
        ("{address: ':1', tls: {certificate: a, key: b, require_identity: true}, backend_refs: [api]}", "leave out"),
        ("{address: ':1', rate_limit: {}, backend_refs: [api]}", "limits nothing"),
        ("{address: ':1', policy: {authorizations: [{networks: [x]}]}, backend_refs: [api]}", "no network"),
        ("{address: ':1', policy: denny, backend_refs: [api]}", "did you mean 'deny'?"),
        ("{address: ':1', backend_refs: [nobody]}", "there is no backend 'nobody': the backends are api, old"),
        ("{address: ':1', tls: {}, backend_refs: [api]}", "give the proxy one under the key identity"),
        (
            "{address: ':1', routes: [{rules: [{matches: [{path: {type: Exact, value: /}}], filters: [{type: URLRewrite,"
            " path: {type: ReplacePrefixMatch, value: /}}], backend_refs: [api]}]}]}",
            "needs a match by prefix",
        ),
        ("{address: ':1', routes: [{rules: [{matches: [{path: {type: RegularExpression, value: '('}}]}]}]}", "be read"),
    ],
)
def test_what_does_not_go_together_is_told_with_its_line(listener, told) -> None:
    _, problems = structure(parse(f"listeners:\n  web:\n    {listener}\n{BACKENDS}", "proxy.yaml"), "proxy.yaml")
    assert any(told in problem.text and problem.line == 3 for problem in problems), problems


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        ("{}", "it has none of them"),
        ("{endpoints: ['10.0.0.1:80'], dns: 'a:80'}", "it has endpoints and dns"),
        ("{endpoints: ['10.0.0.1:80', '10.0.0.1:80']}", "twice"),
        ("{dns: 'no port'}", "no port"),
        ("{endpoints: [':1'], retry: {http: 2xx}}", "names no failures of HTTP"),
        ("{endpoints: [':1'], retry: {budget: {ttl: 90s}}}", "1 to 60 seconds"),
        ("{endpoints: [':1'], breaker: {consecutive: null}}", "breaks on nothing"),
        ("{endpoints: [{address: ':1', identity: a.b}]}", "the proxy has no identity"),
        ("{endpoints: [':1'], connect_timeout: 0s}", "never connects"),
    ],
)
def test_backends_that_can_not_be_are_told(backend, told) -> None:
    text = f"listeners: {{web: {{address: ':1', backend_refs: [api]}}}}\nbackends:\n  api:\n    {backend}\n"
    _, problems = structure(parse(text, "proxy.yaml"), "proxy.yaml")
    assert any(told in problem.text and problem.line == 4 for problem in problems), problems


def test_retries_of_a_rule_and_of_its_backend_would_multiply() -> None:
    text = """
listeners:
  web:
    address: ":1"
    routes:
      - rules:
          - retry: {limit: 2}
            backend_refs: [api]
backends: {api: {endpoints: [":2"], retry: {limit: 2}}}
"""
    _, problems = structure(parse(text, "p.yaml"), "p.yaml")
    assert [(one.line, one.path) for one in problems] == [(7, "listeners.web.routes[0].rules[0].retry")]


def test_two_listeners_on_one_address_are_told() -> None:
    text = "listeners:\n  a: {address: ':1', backend_refs: [x]}\n  b: {address: ':1', backend_refs: [x]}\n"
    _, problems = structure(parse(text + "backends: {x: {endpoints: [':2']}}", "p.yaml"), "p.yaml")
    assert [(one.line, one.path) for one in problems] == [(3, "listeners.b.address")]


# --- any document ----------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_any_document_that_is_valid_builds_and_prints(entry) -> None:
    text = json.dumps(entry, indent=1)
    read, problems = structure(parse(text, "proxy.json"), "proxy.json")
    assert problems == []
    assert isinstance(stack := build(read), Stack)
    assert str(stack)
    assert repr(stack)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_mutation_is_told_with_the_line_that_it_is_on(data) -> None:
    entry = data.draw(documents())
    data.draw(mutations(entry))
    text = json.dumps(entry, indent=1)
    line = next(number for number, one in enumerate(text.splitlines(), 1) if "MUTATED" in one)
    _, problems = structure(parse(text, "proxy.json"), "proxy.json")
    assert line in {problem.line for problem in problems}
    assert all(problem.line > 0 for problem in problems)


# --- it serves -------------------------------------------------------------------------------------


async def test_two_listeners_are_told_apart_by_where_they_listen() -> None:
    async with http_origin() as one, http_origin(_answering(b"two")) as two:
        text = f"""
listeners:
  one: {{address: "127.0.0.1:0", backend_refs: [one]}}
  two: {{address: "127.0.0.1:0", backend_refs: [two]}}
backends:
  one: {{endpoints: ["{one.address}"]}}
  two: {{endpoints: ["{two.address}"]}}
"""
        async with served(text) as at:
            assert await get(at["one"]) == (200, b"GET /x")
            assert await get(at["two"]) == (200, b"two")


def _answering(text):
    async def answer(_):
        return Response(200, (), text)

    return answer


async def test_a_connection_that_came_in_elsewhere_has_no_route() -> None:
    stack = ByListener({"a": build(document("listeners: {a: {address: ':1', backend_refs: [api]}}" + BACKENDS))}, {})
    async with opened(stack) as service:
        _, connection = memory_connection()
        with pytest.raises(NoRoute, match="no listener is configured"):
            await service(connection)


async def test_every_interface_stands_for_all_addresses_of_the_port() -> None:
    async with tcp_origin() as origin:
        text = f"listeners: {{a: {{address: ':1', protocol: tcp, backend_refs: [x]}}}}\nbackends: {{x: {{endpoints: ['{origin.address}']}}}}"
        stack = ByListener({"a": build(document(text))}, {"a": (parse_address(":8080"),)})
        async with opened(stack) as service, trio.open_nursery() as nursery:
            client, connection = memory_connection(local=Address("10.9.8.7", 8080))
            nursery.start_soon(service, connection)
            await client.send_all(b"ping")
            assert await client.receive_some() == b"ping"
            nursery.cancel_scope.cancel()


async def test_metrics_tell_listeners_and_backends_apart() -> None:
    async with http_origin() as origin:
        text = f"listeners: {{web: {{address: '127.0.0.1:0', backend_refs: [app]}}}}\nbackends: {{app: {{endpoints: ['{origin.address}']}}}}"
        async with served(text) as at:
            await get(at["web"])
        registry = current_registry()
        assert registry.counter("request_total", "", listener="web", protocol="http/1").value == 1
        opens = registry.counter("tcp_open_total", "", backend="app", direction="", peer="dst")
        assert opens is not None


# --- TLS -------------------------------------------------------------------------------------------


async def test_two_configured_proxies_speak_mutual_tls(tmp_path) -> None:
    authority = Authority()
    for name in ("web", "api"):
        write_identity(tmp_path / name, authority, f"{name}.mesh.local")
    async with http_origin() as origin:
        inbound = f"""
identity: {{directory: api}}
listeners:
  mesh:
    address: 127.0.0.1:0
    tls: {{require_identity: true}}
    policy: {{loopback: false, authorizations: [{{identities: ["*.mesh.local"]}}]}}
    backend_refs: [app]
backends: {{app: {{endpoints: ["{origin.address}"]}}}}
"""
        async with served(inbound, tmp_path) as api:
            outbound = f"""
identity: {{directory: web}}
listeners: {{local: {{address: "127.0.0.1:0", backend_refs: [api]}}}}
backends: {{api: {{endpoints: [{{address: "{api["mesh"]}", identity: api.mesh.local}}]}}}}
"""
            async with served(outbound, tmp_path) as web:
                assert await get(web["local"]) == (200, b"GET /x")
                headers = [("l5d-client-id", "somebody.else")]
                assert await get(web["local"], headers=headers) == (200, b"GET /x")
            wrong = outbound.replace("identity: api.mesh.local", "identity: db.mesh.local")
            async with served(wrong, tmp_path) as web:
                assert (await get(web["local"]))[0] in {502, 503, 504}
        told = [request.headers.get_all("l5d-client-id") for request in origin.requests]
        assert told == [["web.mesh.local"]] * 2


async def test_outside_of_the_mesh_nobody_has_an_identity_and_none_can_be_required(tmp_path) -> None:
    write_identity(tmp_path / "web", Authority(), "web.mesh.local")
    async with http_origin() as origin:
        text = f"""
identity: {{directory: web}}
listeners: {{local: {{address: "127.0.0.1:0", backend_refs: [app]}}}}
backends: {{app: {{endpoints: ["{origin.address}"]}}}}
"""
        async with served(text, tmp_path) as at:
            claim = [("l5d-client-id", "somebody.else"), ("l5d_client_id", "somebody.else"), ("x-mine", "1")]
            assert (await get(at["local"], headers=claim))[0] == 200
            (request,) = origin.requests
            assert (request.headers.get("l5d-client-id"), request.headers.get("l5d_client_id")) == (None, None)
            assert request.headers.get("x-mine") == "1"
            assert (await get(at["local"], headers=[("l5d-require-id", "api.mesh.local")]))[0] == 502
            assert (await get(at["local"]))[0] == 200  # the endpoint is no worse for it
            assert len(origin.requests) == 2


async def test_a_certificate_of_the_ordinary_web_and_nothing_else_is_let_in(tmp_path) -> None:
    import ssl

    authority = Authority()
    made = authority.ca.issue_cert("localhost", "127.0.0.1")
    (tmp_path / "site.pem").write_bytes(b"".join(one.bytes() for one in made.cert_chain_pems))
    (tmp_path / "site.key").write_bytes(made.private_key_pem.bytes())
    context = ssl.create_default_context(cadata=authority.roots.decode())
    async with http_origin() as origin:
        text = f"""
listeners: {{web: {{address: "127.0.0.1:0", tls: {{certificate: site.pem, key: site.key}}, backend_refs: [app]}}}}
backends: {{app: {{endpoints: ["{origin.address}"]}}}}
"""
        async with served(text, tmp_path) as at:
            tls = Originate(context=context, host="localhost")
            assert await get(at["web"], tls=tls) == (200, b"GET /x")
            stream = await trio.open_tcp_stream(at["web"].host, at["web"].port)
            async with stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                assert await stream.receive_some() == b""
        both = text.replace("key: site.key", "key: site.key, required: false")
        async with served(both, tmp_path) as at:
            assert await get(at["web"]) == (200, b"GET /x")
            assert await get(at["web"], tls=tls) == (200, b"GET /x")


async def test_tls_passes_by_name_ends_and_begins_again(tmp_path) -> None:
    """A client speaks TLS through a proxy that only looks at the name, to one where it ends, from which it goes on."""
    import ssl

    authority = Authority()
    made = authority.ca.issue_cert("localhost", "127.0.0.1")
    (tmp_path / "site.pem").write_bytes(b"".join(one.bytes() for one in made.cert_chain_pems))
    (tmp_path / "site.key").write_bytes(made.private_key_pem.bytes())
    (tmp_path / "ca.pem").write_bytes(authority.roots)
    context = ssl.create_default_context(cadata=authority.roots.decode())
    ends = "{address: '127.0.0.1:0', tls: {certificate: site.pem, key: site.key}, backend_refs: [app]}"
    async with http_origin() as origin:
        app = f"backends: {{app: {{endpoints: ['{origin.address}']}}}}"
        async with served(f"listeners: {{https: {ends}}}\n{app}", tmp_path) as inner:
            text = f"""
listeners:
  passing:
    address: 127.0.0.1:0
    tls_routes: [{{hostnames: [localhost], backend_refs: [https]}}]
    tcp_routes: [{{destinations: ["10.0.0.0/8"], backend_refs: [https]}}]
  beginning: {{address: "127.0.0.1:0", protocol: http, backend_refs: [again]}}
backends:
  https: {{endpoints: ["{inner["https"]}"]}}
  again: {{endpoints: ["{inner["https"]}"], tls: {{host: localhost, roots: ca.pem}}}}
"""
            async with served(text, tmp_path) as outer:
                tls = Originate(context=context, host="localhost")
                assert await get(outer["passing"], tls=tls) == (200, b"GET /x")
                assert await get(outer["beginning"]) == (200, b"GET /x")


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_proxy_in_front_tells_the_clients_address(version) -> None:
    seen = []

    async def note(connection) -> None:
        seen.append(connection.peer)
        await connection.stream.send_all(b"hello")

    async with serving(ProxyProtocolEntry().layer() | Noted(note)) as address:
        text = f"""
listeners: {{out: {{address: "127.0.0.1:0", protocol: tcp, backend_refs: [in]}}}}
backends: {{in: {{endpoints: ["{address}"], send_proxy_protocol: {version}}}}}
"""
        async with served(text) as at, await trio.open_tcp_stream(at["out"].host, at["out"].port) as stream:
            assert await stream.receive_some() == b"hello"
            port = stream.socket.getsockname()[1]
    assert seen == [Address("127.0.0.1", port)]


@dataclass(frozen=True, slots=True)
class Noted(Stack):
    service: object

    @asynccontextmanager
    async def open(self):
        yield self.service


async def test_only_tls_refuses_what_was_not_decrypted() -> None:
    async def never(_) -> None:
        raise AssertionError

    _, connection = memory_connection()
    with pytest.raises(HandshakeFailed, match="none of this proxy's TLS"):
        await OnlyTls().serve(connection, never)


def test_a_certificate_and_a_key_that_do_not_match_are_refused(tmp_path) -> None:
    authority = Authority()
    one, two = authority.ca.issue_cert("a.example"), authority.ca.issue_cert("b.example")
    (tmp_path / "site.pem").write_bytes(one.cert_chain_pems[0].bytes())
    (tmp_path / "site.key").write_bytes(two.private_key_pem.bytes())
    text = "listeners: {web: {address: ':1', tls: {certificate: site.pem, key: site.key}, backend_refs: [api]}}\n"
    with pytest.raises(InvalidConfiguration, match="can't be used together"):
        build(document(text + BACKENDS), base=tmp_path)


def test_paths_are_relative_to_the_files_directory(tmp_path) -> None:
    text = "identity: {directory: id}\nlisteners: {web: {address: ':1', tls: {}, backend_refs: [api]}}\n"
    stack = build(document(text + BACKENDS), base=tmp_path)
    assert repr(Files(tmp_path / "id")) in repr(stack)


def test_an_unknown_root_is_told(tmp_path) -> None:
    with pytest.raises(InvalidDocument, match="expected a mapping"):
        document("[1]")
