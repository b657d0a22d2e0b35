"""Looking a configuration over: certificates, files, patterns and ports, beside its words."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.config.examine import examine
from linkerd_proxy.mesh.config.regex import nests_repetitions
from linkerd_proxy.testing import Authority
from linkerd_proxy.tls.store import key_pem, to_pem

REST = "backends: {app: {endpoints: ['10.0.0.1:80']}}\n"


async def found(tmp_path, text, **options):
    """Return the findings as (severity, line, path, text)."""
    path = tmp_path / "proxy.yaml"
    path.write_text(text)
    findings = await examine(path, **options)
    return [(one.severity, one.line, one.path, one.text) for one in findings]


# --- identities and certificates -----------------------------------------------------------------


def write(directory, made, authority) -> None:
    directory.mkdir()
    (directory / "cert.pem").write_bytes(to_pem(made.chain))
    (directory / "key.pem").write_bytes(key_pem(made.key))
    (directory / "ca.pem").write_bytes(authority.roots)


MESH = "identity: {directory: id}\nlisteners: {web: {address: '127.0.0.1:0', tls: {}, backend_refs: [app]}}\n" + REST


async def test_a_good_identity_is_no_finding(tmp_path) -> None:
    authority = Authority()
    write(tmp_path / "id", authority.issue("web.mesh.local"), authority)
    assert await found(tmp_path, MESH) == []


async def test_an_identity_that_expired_another_key_and_missing_files_are_told(tmp_path) -> None:
    authority = Authority()
    made = authority.issue("web.mesh.local", lifetime=-60)
    write(tmp_path / "id", made, authority)
    ((severity, line, path, text),) = await found(tmp_path, MESH)
    assert (severity, line, path) == ("error", 1, "identity")
    assert "expired" in text
    good, other = authority.issue("web.mesh.local"), authority.issue("api.mesh.local")
    (tmp_path / "id" / "cert.pem").write_bytes(to_pem(good.chain))
    (tmp_path / "id" / "key.pem").write_bytes(key_pem(other.key))
    ((_, line, path, text),) = await found(tmp_path, MESH)
    assert (line, path) == (1, "identity")
    assert "key" in text
    os.unlink(tmp_path / "id" / "key.pem")
    ((_, _, _, text),) = await found(tmp_path, MESH)
    assert "key.pem: No such file or directory" in text


WEB = (
    "listeners:\n  web:\n    address: 127.0.0.1:0\n    tls: {certificate: a.pem, key: a.key}\n    backend_refs: [app]\n"
    + REST
)


async def test_certificates_of_the_web_are_looked_at_with_the_clock(tmp_path) -> None:
    made = Authority().ca.issue_cert("a.example")
    (tmp_path / "a.pem").write_bytes(made.cert_chain_pems[0].bytes())
    (tmp_path / "a.key").write_bytes(made.private_key_pem.bytes())
    assert await found(tmp_path, WEB) == []
    from cryptography import x509

    ends = x509.load_pem_x509_certificate(made.cert_chain_pems[0].bytes()).not_valid_after_utc
    cases = [
        (ends + timedelta(1), "error", "expired at"),
        (ends - timedelta(1), "warning", "expires at"),
        (datetime.now(UTC) - timedelta(40000), "error", "is not valid before"),
    ]
    for now, severity, words in cases:
        ((told, line, path, text),) = await found(tmp_path, WEB, now=lambda now=now: now)
        assert (told, line, path) == (severity, 4, "listeners.web.tls")
        assert words in text
    (tmp_path / "a.key").write_bytes(Authority().ca.issue_cert("a.example").private_key_pem.bytes())
    ((severity, _, _, text),) = await found(tmp_path, WEB)
    assert severity == "error"
    assert "can't be used together" in text


# --- files, patterns, ports ----------------------------------------------------------------------


async def test_a_bad_file_of_endpoints_is_told_with_its_own_line(tmp_path) -> None:
    (tmp_path / "e.json").write_text('{"endpoints": [\n"no port"]}')
    text = "listeners: {web: {address: '127.0.0.1:0', backend_refs: [app]}}\nbackends:\n  app:\n    file: e.json\n"
    ((severity, line, path, told),) = await found(tmp_path, text)
    assert (severity, line, path) == ("error", 4, "backends.app.file")
    assert "e.json:2: endpoints[0]: 'no port' has no port" in told


async def test_libraries_that_are_not_installed_are_named_by_their_extras(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("linkerd_proxy.mesh.config.examine.find_spec", lambda _: None)
    text = (
        "listeners: {web: {address: '127.0.0.1:0', backend_refs: [a, b]}}\n"
        "backends:\n"
        "  a: {dns: 'a.example:80'}\n"
        "  b: {endpoints: ['10.0.0.1:443'], tls: {}}\n"
    )
    told = [(line, path, text) for _, line, path, text in await found(tmp_path, text)]
    needs = "this needs a library that is not installed: pip install 'linkerd-proxy[{}]'"
    assert told == [(3, "backends.a.dns", needs.format("dns")), (4, "backends.b.tls", needs.format("egress"))]


async def test_roots_that_are_none_are_told(tmp_path) -> None:
    text = "listeners: {web: {address: '127.0.0.1:0', backend_refs: [b]}}\nbackends:\n  b:\n    endpoints: ['10.0.0.1:443']\n"
    ((severity, line, path, told),) = await found(tmp_path, text + "    tls: {roots: none.pem}\n")
    assert (severity, line, path) == ("error", 5, "backends.b.tls.roots")
    assert "none.pem has no readable certificate" in told


@pytest.mark.parametrize(
    ("pattern", "nests"),
    [
        ("(a+)+b", True),
        ("(a*)*", True),
        ("(a+b?)*c", True),
        ("((a+)b)+", True),
        ("(a{2,})+", True),
        ("(?:a+){2,}", True),
        ("(a+)?", False),
        ("(a+){2,3}", False),
        ("(ab)+", False),
        ("a+b*c+", False),
        (r"(a\+)+", False),
        ("([a+]b)+", False),
        ("([^]+]x)*", False),
        (r"\(a+\)+", False),
        ("(a+)b+", False),
        ("(a{2})+", False),
        ("", False),
    ],
)
def test_repetitions_in_repetitions(pattern, nests) -> None:
    assert nests_repetitions(pattern) is nests


async def test_ports_are_tried_only_if_asked_for(tmp_path) -> None:
    (listener,) = await open_listeners("127.0.0.1:0")
    try:
        text = f"listeners:\n  web:\n    address: {listener.address}\n    backend_refs: [app]\n{REST}"
        assert await found(tmp_path, text) == []
        ((severity, line, path, told),) = await found(tmp_path, text, ports=True)
        assert (severity, line, path) == ("error", 3, "listeners.web.address")
        assert "Address already in use" in told
    finally:
        listener.close()


async def test_ports_of_the_admin_endpoint_and_of_the_tap_are_tried_too(tmp_path) -> None:
    authority = Authority()
    write(tmp_path / "id", authority.issue("web.mesh.local"), authority)
    admin, tap = await open_listeners("127.0.0.1:0", "127.0.0.1:0")
    try:
        more = f"admin: {admin.address}\ntap_server: {{address: '{tap.address}', allowed: [a.b]}}\n"
        findings = await found(tmp_path, MESH + more, ports=True)
        assert [(line, path) for _, line, path, _ in findings] == [(4, "admin"), (5, "tap_server.address")]
    finally:
        admin.close()
        tap.close()


async def test_collectors_gateways_and_authorities_are_told_with_their_lines(tmp_path, monkeypatch) -> None:
    for name in ("", "METRICS_", "TRACES_"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT", raising=False)
    text = (
        "identity: {spiffe: 'unix:///run/agent.sock'}\n"
        "otlp_metrics: {}\n"
        "trace: {service: shop}\n"
        "listeners:\n"
        "  web:\n"
        "    address: 127.0.0.1:0\n"
        "    tls: {}\n"
        "    gateway: {suffixes: [a.example]}\n"
    )
    findings = await found(tmp_path, text)
    assert [(severity, line, path) for severity, line, path, _ in findings] == [
        ("error", 2, "otlp_metrics"),
        ("error", 3, "trace"),
        ("error", 8, "listeners.web.gateway"),
    ]
    authority = text.replace(
        "spiffe: 'unix:///run/agent.sock'", "authority: {address: 'a.b:1', name: a.b, anchors: none, server_name: c.d}"
    )
    ((severity, line, path, told), *_) = await found(tmp_path, authority)
    assert (severity, line, path) == ("error", 1, "identity")
    assert "no readable certificate" in told


async def test_patterns_of_profiles_and_files_with_settings_are_looked_at(tmp_path) -> None:
    text = (
        "listeners: {web: {address: '127.0.0.1:0', backend_refs: [a]}}\n"
        "backends:\n"
        "  a:\n"
        "    file: {path: none.json}\n"
        "    profile: {routes: [{condition: {all: [{path_regex: '/(a+)+'}]}}]}\n"
    )
    findings = await found(tmp_path, text)
    assert [(severity, line, path) for severity, line, path, _ in findings] == [
        ("error", 4, "backends.a.file"),
        ("warning", 5, "backends.a.profile.routes[0].condition.all[0].path_regex"),
    ]


async def test_what_is_wrong_in_one_part_hides_nothing_of_another(tmp_path) -> None:
    text = (
        "identity: {directory: id}\n"
        "listeners:\n"
        "  web:\n"
        "    bogus: 1\n"
        "    address: 127.0.0.1:0\n"
        "    tls: {certificate: a.pem, key: a.key}\n"
        "    backend_refs: [nobody]\n"
        "    routes: [{rules: [{matches: [{path: {type: RegularExpression, value: '(a+)+'}}], backend_refs: [app]}]}]\n"
        "backends: {app: {file: none.json}}\n"
    )
    lines = [(severity, line) for severity, line, _, _ in await found(tmp_path, text)]
    errors = [("error", line) for line in (1, 4, 6, 7)]
    assert lines == [*errors, ("warning", 8), ("error", 9)]


async def test_a_file_that_can_not_be_read_is_one_finding(tmp_path) -> None:
    (finding,) = await examine(tmp_path / "none.yaml")
    assert (finding.severity, finding.line) == ("error", 0)
    assert finding.told("none.yaml") == "none.yaml: it can't be read: No such file or directory"
    path = tmp_path / "bad.yaml"
    path.write_text("a: [")
    (finding,) = await examine(path)
    assert "no YAML" in finding.text


async def test_the_example_of_the_how_to_has_no_findings() -> None:
    assert await examine(Path(__file__).parents[3] / "examples" / "proxy.yaml") == []


# --- what is no error of a word -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "told"),
    [
        (
            "admin: '127.0.0.1:81'\nlisteners: {web: {address: '127.0.0.1:81', backend_refs: [app]}}\n",
            "admin",
            "listeners.web",
        ),
        (
            "admin: {address: '127.0.0.1:81'}\nlisteners: {web: {address: '127.0.0.1:81', backend_refs: [app]}}\n",
            "admin.address",
            "listeners.web",
        ),
    ],
)
async def test_the_proxys_own_listeners_need_addresses_of_their_own(tmp_path, text, path, told) -> None:
    assert await found(tmp_path, text + REST) == [
        ("error", 1, path, f"{told} listens on 127.0.0.1:81 already: give another port, or merge the two")
    ]


async def test_a_split_that_leads_nowhere_is_a_warning(tmp_path) -> None:
    refs = "[{name: app, weight: 0}, {name: two, weight: 0}]"
    text = f"listeners: {{web: {{address: ':81', backend_refs: {refs}}}}}\n"
    backends = "backends: {app: {endpoints: ['10.0.0.1:80']}, two: {endpoints: ['10.0.0.2:80']}}\n"
    [(severity, line, path, told)] = await found(tmp_path, text + backends)
    assert (severity, line, path) == ("warning", 1, "listeners.web.backend_refs")
    assert "all weights are 0" in told
    assert await found(tmp_path, text.replace("weight: 0}]", "weight: 1}]") + backends) == []


async def test_an_access_log_needs_a_directory(tmp_path) -> None:
    text = "access_log: {to: logs/a.log}\nlisteners: {web: {address: ':81', backend_refs: [app]}}\n" + REST
    [(severity, line, path, told)] = await found(tmp_path, text)
    assert (severity, line, path) == ("error", 1, "access_log.to")
    assert told == f"there is no directory {tmp_path / 'logs'}: make it, or name another file"
    (tmp_path / "logs").mkdir()
    assert await found(tmp_path, text) == []
