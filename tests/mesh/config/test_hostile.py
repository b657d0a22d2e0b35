"""Whatever stands in a file, the answer is a proxy or what is wrong with it."""

import json
from contextlib import suppress
from copy import deepcopy

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linkerd_proxy.document.load import parse
from linkerd_proxy.document.tree import InvalidDocument
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.build import build
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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
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
