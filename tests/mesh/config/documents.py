"""Documents that are valid, and what makes them invalid, for properties."""

from hypothesis import strategies as st

NAMES = ("a", "b", "c")
durations = st.sampled_from(["100ms", "1s", "1.5s", "2m", "1h"])
shares = st.floats(0, 1, allow_nan=False)
hosts = st.sampled_from(["a.example", "*.example.com", "b.example:8080"])
paths = st.sampled_from(["/", "/a", "/a/b"])
values = st.one_of(
    st.sampled_from(["1", "x"]),
    st.fixed_dictionaries({"type": st.sampled_from(["Exact", "RegularExpression"]), "value": st.just("x+")}),
)


def optional(**keys):
    return st.fixed_dictionaries({}, optional=keys)


timeouts = optional(request=durations, response=durations, idle=durations, headers=st.booleans())
limits_in_flight = optional(in_flight=st.integers(1, 100), queue=st.integers(0, 100), wait=durations)
rate_limits = st.fixed_dictionaries({"total": st.integers(1, 1000)}, optional={"identity": st.integers(1, 1000)})
policies = st.one_of(
    st.sampled_from(["deny", "all-authenticated", "all-unauthenticated", "audit"]),
    st.fixed_dictionaries(
        {
            "authorizations": st.lists(
                optional(
                    name=st.just("x"),
                    networks=st.lists(
                        st.sampled_from(["10.0.0.0/8", {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}])
                    ),
                    identities=st.lists(st.sampled_from(["*", "a.mesh.local", "*.mesh.local", "spiffe://x/y"])),
                ),
                max_size=2,
            ),
            "audit": st.booleans(),
        }
    ),
)
retries = optional(
    limit=st.integers(0, 100),
    http=st.sampled_from(["5xx", "gateway-error", "429,500-503"]),
    grpc=st.sampled_from(["", "unavailable"]),
    timeout=durations,
    budget=optional(retry_ratio=shares, min_retries_per_second=shares),
)
breakers = st.one_of(
    st.just("off"), optional(consecutive=st.integers(1, 10), window=durations, min_requests=st.integers(1, 9))
)
filters = st.one_of(
    st.just({"type": "RequestHeaderModifier", "set": {"a": "b"}}),
    st.just({"type": "ResponseHeaderModifier", "remove": ["server"]}),
    st.just({"type": "URLRewrite", "path": "/new"}),
    st.just({"type": "RequestRedirect", "scheme": "https", "status_code": 301}),
    st.fixed_dictionaries({"type": st.just("RequestMirror"), "backend_ref": st.sampled_from(NAMES), "ratio": shares}),
    st.fixed_dictionaries({"type": st.just("FailureInjector"), "ratio": shares, "status": st.integers(400, 599)}),
)
backend_refs = st.lists(
    st.one_of(
        st.sampled_from(NAMES),
        st.fixed_dictionaries({"name": st.sampled_from(NAMES)}, optional={"weight": st.integers(0, 10)}),
    ),
    min_size=1,
    max_size=3,
)
http_matches = optional(
    path=st.one_of(paths, st.fixed_dictionaries({"type": st.just("Exact"), "value": paths})),
    headers=st.dictionaries(st.sampled_from(["x-a", "x-b"]), values),
    query_params=st.dictionaries(st.sampled_from(["q", "p"]), values),
    method=st.sampled_from(["GET", "POST"]),
)
grpc_matches = optional(service=st.just("pkg.Greeter"), method=st.just("Say"))


def rules(matches):
    more = {
        "matches": st.lists(matches, max_size=2),
        "filters": st.lists(filters, max_size=2),
        "timeouts": timeouts,
        "policy": policies,
        "rate_limit": rate_limits,
    }
    return st.lists(st.fixed_dictionaries({"backend_refs": backend_refs}, optional=more), max_size=2)


def routes(matches):
    return st.lists(
        st.fixed_dictionaries({"rules": rules(matches)}, optional={"hostnames": st.lists(hosts, max_size=2)}),
        max_size=2,
    )


limits = optional(
    max_head=st.integers(1000, 1 << 20),
    max_fields=st.integers(1, 1000),
    body_idle=durations,
    h2_max_streams=st.integers(1, 1000),
    strict_line_ends=st.booleans(),
    upgrades=st.lists(st.sampled_from(["websocket", "tls/1.0"])),
)
labels = st.dictionaries(st.sampled_from(["direction", "team"]), st.sampled_from(["x", "y"]))
options = optional(keepalive=durations, user_timeout=durations)
picks = st.one_of(
    st.sampled_from(["p2c", "least_request", "round_robin", "ring"]),
    st.fixed_dictionaries({"type": st.just("p2c")}, optional={"penalty": durations, "peak": st.booleans()}),
    st.fixed_dictionaries({"type": st.just("least_request")}, optional={"choices": st.integers(2, 5)}),
    st.fixed_dictionaries(
        {"type": st.just("ring")},
        optional={"key": st.sampled_from(["peer", {"header": "x-user"}]), "bound": st.floats(1.1, 9)},
    ),
)
conditions = st.recursive(
    optional(path_regex=st.sampled_from(["/a", "/b/[^/]*"]), method=st.sampled_from(["GET", "POST"])),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"all": st.lists(inner, max_size=2)}),
        st.fixed_dictionaries({"any": st.lists(inner, max_size=2)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=4,
)
profiles = optional(
    routes=st.lists(
        st.fixed_dictionaries(
            {"condition": conditions},
            optional={
                "response_classes": st.just([{"condition": {"status": {"min": 429, "max": 429}}, "is_failure": True}]),
                "labels": st.just({"route": "a"}),
                "timeout": durations,
            },
        ),
        max_size=2,
    ),
    retry_budget=optional(retry_ratio=shares),
    dst_overrides=st.lists(st.sampled_from(["a", {"name": "b", "weight": 2}]), max_size=2),
)
of_requests = {"timeouts": timeouts, "retry": retries, "hedge": optional(delay=durations), "limit": limits_in_flight}
of_connections = {
    "protocol": st.sampled_from(["same", "http/1.1", "h2"]),
    "send_proxy_protocol": st.sampled_from(["v1", "v2"]),
    "connect_timeout": durations,
    "source": st.just("127.0.0.1"),
    "options": options,
    "limits": limits,
    "labels": labels,
}
of_balancers = {
    "balance": optional(
        pick=picks,
        failfast=durations,
        spill=st.floats(1, 9),
        connect_backoff=st.just({"minimum": "1s", "maximum": "2s"}),
    ),
    "breaker": breakers,
}


def found(ways, *more):
    """Draw a backend that is found in one of some ways, and what else may be said of it."""
    optionals = {key: value for part in more for key, value in part.items()}
    return st.tuples(st.sampled_from(ways), optional(**optionals)).map(lambda parts: parts[0] | parts[1])


backends = st.one_of(
    found(
        [
            {"endpoints": ["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": 2}]},
            {"dns": "web.example:80"},
            {"dns": {"name": "_http._tcp.web.example", "min_ttl": "10s", "zone": "a"}},
            {"file": "endpoints.json"},
            {"file": {"path": "endpoints.json", "interval": "2s"}},
        ],
        of_requests,
        of_connections,
        of_balancers,
    ),
    found([{"original_dst": True}], of_requests, of_connections),
)
last_backends = st.one_of(
    backends,
    found([{"first_available": ["a", "b"]}, {"first_available": ["b"]}], of_requests),
    found([{"endpoints": ["10.0.0.1:80"]}], {"profile": profiles}, of_connections, of_balancers),
)


def listeners(port):
    more = {
        "detect_timeout": durations,
        "opaque_ports": st.lists(st.integers(1, 65535), max_size=2),
        "proxy_protocol": optional(required=st.booleans()),
        "original_dst": st.booleans(),
        "policy": policies,
        "rate_limit": rate_limits,
        "limit": limits_in_flight,
        "limits": limits,
        "labels": labels,
        "options": options,
        "half_open": durations,
        "timeouts": timeouts,
        "routes": routes(http_matches),
        "grpc_routes": routes(grpc_matches),
        "tls_routes": st.just([{"hostnames": ["a.example"], "backend_refs": ["a"]}]),
        "tcp_routes": st.just([{"destinations": ["10.0.0.0/8:5432"], "backend_refs": ["b"]}]),
    }
    needed = {"address": st.just(f"127.0.0.1:{port}"), "backend_refs": backend_refs}
    return st.fixed_dictionaries(needed, optional=more)


@st.composite
def documents(draw):
    """Draw a document that is valid."""
    count = draw(st.integers(1, 3))
    document = {
        "listeners": {f"l{port}": draw(listeners(port)) for port in range(1, 1 + count)},
        "backends": {name: draw(last_backends if name == NAMES[-1] else backends) for name in NAMES},
    }
    return document | draw(
        optional(
            grace=durations,
            workers=st.integers(1, 4),
            log=st.sampled_from(["info", "warn"]),
            access_log=optional(format=st.sampled_from(["apache", "json"]), redact=st.just(["code"])),
            trace=st.just({"endpoint": "https://c.example", "kind": "client", "headers": {"x-key": "k"}}),
            otlp_metrics=st.just({"endpoint": "http://c.example:4318/base", "interval": "1s", "batch": 10}),
            admin=st.sampled_from(["127.0.0.1:0", {"address": "127.0.0.1:0", "bounds": {"x_ms": [1, 2.5]}}]),
            codec=st.sampled_from(["auto", "h11"]),
        )
    )


def places(value):
    """Yield every mapping inside a value but those whose keys are names of the user's own."""
    if isinstance(value, dict):
        yield value
        for one in value.values():
            yield from places(one)
    elif isinstance(value, list):
        for one in value:
            yield from places(one)


@st.composite
def mutations(draw, document):
    """Make something in a document wrong, and mark it."""
    listeners, backends = document["listeners"].values(), document["backends"].values()
    way = draw(st.sampled_from(["key", "value", "reference", "range", "type"]))
    place = draw(st.sampled_from([*listeners, *backends]))
    if way == "key":
        place["MUTATED"] = 1
    elif way == "value":
        place["protocol"] = "MUTATED"
    elif way == "reference":
        draw(st.sampled_from([*listeners]))["backend_refs"] = ["MUTATED"]
    elif way == "range":
        place["timeouts"] = {"request": "MUTATED"}
    else:
        place["limit"] = "MUTATED"
