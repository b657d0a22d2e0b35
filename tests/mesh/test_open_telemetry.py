"""OpenTelemetry's environment variables."""

import pytest

from linkerd_proxy.core.stack import Layer
from linkerd_proxy.core.work import Dial
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.open_telemetry import otlp_from_environment, otlp_metrics_from_environment

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_no_endpoint_is_no_export():
    assert otlp_from_environment({}) is None
    assert otlp_from_environment({ENDPOINT: " "}) is None
    assert otlp_from_environment({ENDPOINT: "http://a:1", "OTEL_SDK_DISABLED": "true"}) is None


def test_all_of_them_are_understood():
    otlp = otlp_from_environment(
        {
            ENDPOINT: "http://otel.test:4318/base/",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b, x-other=c=d",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
            "OTEL_SERVICE_NAME": "shop",
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=other,deployment.environment.name=prod%2Ceu",
        }
    )
    assert (otlp.authority, otlp.path, otlp.service) == ("otel.test:4318", "/base/v1/traces", "shop")
    assert otlp.headers == {"x-key": "a b", "x-other": "c=d"}
    assert otlp.resource == {"deployment.environment.name": "prod,eu"}
    assert otlp.timeout == 2.5
    assert "Connect('otel.test:4318')" in repr(otlp)
    assert "a b" not in repr(otlp)


def test_those_for_traces_come_first_and_their_path_is_whole():
    otlp = otlp_from_environment(
        {
            ENDPOINT: "http://a:1",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[::1]:4318/custom",
            "OTEL_EXPORTER_OTLP_HEADERS": "a=1",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "b=2",
        }
    )
    assert (otlp.authority, otlp.path, otlp.headers) == ("[::1]:4318", "/custom", {"b": "2"})
    assert otlp_from_environment({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}).path == "/"


def test_a_name_may_stand_among_the_attributes():
    environ = {ENDPOINT: "http://a", "OTEL_RESOURCE_ATTRIBUTES": "service.name=shop"}
    assert otlp_from_environment(environ).service == "shop"
    assert otlp_from_environment({ENDPOINT: "http://a"}).service == "linkerd-proxy"


class Secure(Layer[Dial, Dial]):
    """Stands for TLS."""

    __slots__ = ()

    def __repr__(self):
        return "Secure()"


def test_https_is_that_of_the_web_or_what_one_gives():
    otlp = otlp_from_environment({ENDPOINT: "https://a.test"})
    assert repr(otlp.stack) == "Client() | Originate(host='a.test') | Connect('a.test:443')"
    otlp = otlp_from_environment({ENDPOINT: "https://a.test"}, tls=Secure())
    assert repr(otlp.stack) == "Client() | Secure() | Connect('a.test:443')"
    assert "Secure" not in repr(otlp_from_environment({ENDPOINT: "http://a.test"}, tls=Secure()))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (ENDPOINT, "localhost:4318", "no plain http"),
        (ENDPOINT, "http://", "no plain http"),
        (ENDPOINT, "http://a:99999", "no plain http"),
        (ENDPOINT, "http://a:b@c", "no plain http"),
        (ENDPOINT, "grpc://a", "no plain http"),
        (ENDPOINT, "http://a?key=s3cret", "no plain http"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "give http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "give milliseconds"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "give milliseconds"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret", "name=value"),
        ("OTEL_RESOURCE_ATTRIBUTES", "=s3cret", "name=value"),
    ],
)
def test_what_can_not_be_read_is_refused_without_repeating_secrets(name, value, problem):
    with pytest.raises(InvalidConfiguration, match=problem) as caught:
        otlp_from_environment({ENDPOINT: "http://a", name: value})
    assert "s3cret" not in str(caught.value)


# --- metrics -----------------------------------------------------------------------------------


def test_metrics_have_variables_of_their_own():
    assert otlp_metrics_from_environment({}) is None
    assert otlp_metrics_from_environment({ENDPOINT: "http://a", "OTEL_METRICS_EXPORTER": "none"}) is None
    assert otlp_metrics_from_environment({ENDPOINT: "http://a", "OTEL_SDK_DISABLED": "true"}) is None
    otlp = otlp_metrics_from_environment(
        {
            ENDPOINT: "http://otel.test:4318",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_METRIC_EXPORT_INTERVAL": "5000",
            "OTEL_METRIC_EXPORT_TIMEOUT": "3000",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "Cumulative",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a",
            "OTEL_SERVICE_NAME": "shop",
        }
    )
    assert (otlp.authority, otlp.path, otlp.service) == ("otel.test:4318", "/v1/metrics", "shop")
    assert (otlp.interval, otlp.timeout, otlp.headers) == (5.0, 3.0, {"x-key": "a"})


def test_their_defaults_and_what_comes_first():
    otlp = otlp_metrics_from_environment({ENDPOINT: "http://a:1"})
    assert (otlp.interval, otlp.timeout) == (60.0, 10.0)
    otlp = otlp_metrics_from_environment(
        {
            ENDPOINT: "http://a:1",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://b:2/own",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:3/other",
            "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "2000",
            "OTEL_METRIC_EXPORT_TIMEOUT": "3000",
        }
    )
    assert (otlp.authority, otlp.path, otlp.timeout) == ("b:2", "/own", 2.0)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("OTEL_METRICS_EXPORTER", "prometheus", "give otlp, or none"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m", "OTEL_METRIC_EXPORT_INTERVAL is '1m': give milliseconds"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "-1", "give milliseconds"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta", "give cumulative"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc", "give http/protobuf"),
    ],
)
def test_what_they_can_not_mean_is_refused(name, value, problem):
    with pytest.raises(InvalidConfiguration, match=problem):
        otlp_metrics_from_environment({ENDPOINT: "http://a", name: value})
