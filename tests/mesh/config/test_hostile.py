"""Whatever stands in a file, the answer is a proxy or what is wrong with it."""

import json
from contextlib import suppress
from copy import deepcopy
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linkerd_proxy.document.load import parse
from linkerd_proxy.document.schema import schema
from linkerd_proxy.document.tree import InvalidDocument
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.build import build
from linkerd_proxy.mesh.config.document import ProxyDocument
from linkerd_proxy.mesh.config.read import structure
from tests.mesh.config.documents import documents

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1e308, 10**250, 2**63, "", " ", "0s", "-1s", "999999999d", "(" * 3000, "a{99999999999}"]),
    st.sampled_from(
        ["\0", "\n", "\U0001f600", "x" * 5000, ":80", "[::1]", "unix:", "*", "*.", "a..b", "%zz", "-", "https://"]
    ),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.lists(st.one_of(st.text(max_size=3), st.integers()), max_size=2),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)


def slots(value):
    """Yield every place where a value stands, as its container and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield value, key
        yield from slots(one)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_any_value_anywhere_is_taken_or_told(data) -> None:
    entry = deepcopy(data.draw(documents()))  # parts of it may be what a strategy holds, and are changed here
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(slots(entry))))
        container[key] = data.draw(odd)
    text = json.dumps(entry)
    with suppress(InvalidDocument):
        read, problems = structure(parse(text, "proxy.json"), "proxy.json")
        assert all(line.isprintable() for problem in problems for line in problem.told("proxy.json").splitlines())
        if read is not None and not problems:
            with suppress(InvalidConfiguration):
                str(build(read))


@cache
def validators():
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    return jsonschema.Draft202012Validator(schema(ProxyDocument))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_the_schema_takes_every_document_that_is_taken(entry) -> None:
    validator = validators()
    assert [error.message for error in validator.iter_errors(entry)] == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("listeners", "web", "limits"), {"max_haed": 1}),
        (("listeners", "web", "limits"), {"max_head": -1}),
        (("listeners", "web", "limits"), {"body_idle": 5}),
        (("listeners", "web", "gateway"), {"peers": {}}),
        (("backends", "app", "balance"), {"pick": {"type": "rign"}}),
        (("backends", "app", "balance"), {"pick": {"type": "ring", "bound": 1}}),
        (("backends", "app", "profile"), {"routes": [{"condition": {"not": {"metod": "GET"}}}]}),
        (("backends", "app", "profile"), {"routes": [{"condition": {"all": [{"any": [{"path": "/"}]}]}}]}),
        (("tap_server",), {}),
        (("otlp_metrics",), {"batch": 0}),
        (("admin",), {"bounds": {}}),
    ],
)
def test_the_schema_and_the_reader_refuse_the_same(place, value) -> None:
    validator = validators()
    entry = {
        "listeners": {"web": {"address": ":1", "backend_refs": ["app"]}},
        "backends": {"app": {"endpoints": [":2"]}},
    }
    inside = entry
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    assert list(validator.iter_errors(entry))
    read, problems = structure(parse(json.dumps(entry), "proxy.json"), "proxy.json")
    assert problems
    assert read is None
