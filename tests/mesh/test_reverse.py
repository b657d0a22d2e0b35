import pytest

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.reverse import reverse_proxy


def test_it_detects_and_shares_nothing_but_the_targets():
    lines = str(reverse_proxy(["127.0.0.1:9000", "[::1]:9000"], codec="h11")).splitlines()
    assert lines[0] == "Detect()"
    assert sum("Connect('127.0.0.1:9000', '[::1]:9000')" in line for line in lines) == 2
    assert sum("codec='h11'" in line for line in lines) == 2


def test_opaque_is_a_chain_without_detection():
    assert str(reverse_proxy(["127.0.0.1:9000"], opaque=True)).splitlines() == [
        "Metrics()",
        "Tap()",
        "Forward()",
        "Connect('127.0.0.1:9000')",
    ]


def test_access_log_and_traces_stand_where_they_see_all(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel.test:4318")
    text = str(reverse_proxy(["127.0.0.1:9000"], access_log="json", trace=True))
    layers = [line.strip("│└├─ ").partition("(")[0] for line in text.splitlines()]
    assert layers[2:7] == ["Http", "AccessLog", "Trace", "Metrics", "Tap"]


def test_a_trace_needs_somewhere_to_go(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    with pytest.raises(InvalidConfiguration, match="no OTEL_EXPORTER_OTLP_ENDPOINT"):
        reverse_proxy(["127.0.0.1:9000"], trace=True)


@pytest.mark.parametrize(("targets", "told"), [([], "at least one target"), (["nonsense"], "'nonsense' has no port")])
def test_what_is_no_target(targets, told):
    with pytest.raises(InvalidConfiguration, match=told):
        reverse_proxy(targets)
