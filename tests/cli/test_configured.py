"""``run --config``, ``check`` and ``schema``, as their users run them."""

import json
import re
import signal
import sys
from pathlib import Path

import pytest
import trio

from linkerd_proxy.address import parse_address
from linkerd_proxy.cli.main import main
from linkerd_proxy.core.message import Response
from linkerd_proxy.io.dial import dial
from linkerd_proxy.testing import Authority, http_origin, tcp_origin
from tests.mesh.config.asking import Asking
from tests.mesh.config.serving import write_identity
from tests.mesh.config.test_beside import verdict

EXAMPLE = Path(__file__).parents[2] / "examples" / "proxy.yaml"


def write(path, origin, **more):
    document = {
        "listeners": {"web": {"address": "127.0.0.1:0", "protocol": "http", "backend_refs": ["app"]}},
        "backends": {"app": {"endpoints": [str(origin.address)]}},
        "admin": "127.0.0.1:0",
    }
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document | more))
    temporary.rename(path)
    return document


async def until(fetch, admin, path, text):
    """Ask the admin endpoint until its page has the text, and return the page."""
    while True:
        status, body = await fetch(admin, path)
        if status == 200 and text in body.decode():
            return body.decode()


# --- run -----------------------------------------------------------------------------------------


async def test_it_serves_what_the_file_says_and_drains(tmp_path, command, fetch, origin):
    path = tmp_path / "proxy.json"
    write(path, origin)
    async with command("run", "--config", str(path)) as proxy:
        assert await fetch(await proxy.address()) == (200, b"hello")
        admin = await proxy.address("admin")
        assert await fetch(admin, "/ready") == (200, b"ready\n")
        proxy.signal()
        assert await proxy.ended() == 0
        assert proxy.output.startswith("Metrics({'listener': 'web'})\n")
        assert proxy.errors == ""


async def test_a_post_drains_where_that_is_switched_on(tmp_path, command, fetch, origin):
    path = tmp_path / "proxy.json"
    write(path, origin)
    async with command("run", "--config", str(path), "--shutdown-endpoint") as proxy:
        assert await fetch(await proxy.address("admin"), "/shutdown", method="POST", host="localhost") == (
            200,
            b"shutting down\n",
        )
        assert await proxy.ended() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_hangup_and_a_changed_file_change_what_is_served(tmp_path, command, fetch, series, origin, workers):
    path = tmp_path / "proxy.json"
    document = write(path, origin)
    async with command("run", "--config", str(path), "--workers", workers) as proxy:
        address, admin = await proxy.address(), await proxy.address("admin")
        assert await fetch(address) == (200, b"hello")
        web = document["listeners"]["web"]
        redirect = {"rules": [{"filters": [{"type": "RequestRedirect", "path": "/else"}]}]}
        write(path, origin, listeners={"web": web | {"routes": [redirect]}})
        proxy.signal(signal.SIGHUP)
        await until(fetch, admin, "/config", "Redirect(path='/else')")
        for _ in range(10):
            while (await fetch(address))[0] != 302:  # workers read it each by itself
                pass
        write(path, origin, listeners={"web": web | {"bogus": 1}})
        page = await until(fetch, admin, "/config", "its newest version was refused")
        assert "there is no such key" in page
        assert (await fetch(address))[0] == 302
        text = await until(fetch, admin, "/metrics", 'config_reloads_total{result="bad"}')
        assert series(text, "config_reloads_total")['result="good"'] >= int(workers)
        proxy.signal()
        assert await proxy.ended() == 0
        assert "is not taken, nothing has changed" in proxy.errors


@pytest.mark.parametrize("workers", [1, 2])
async def test_twenty_hangups_under_load_lose_no_request_of_any_protocol(tmp_path, command, fetch, series, workers):
    path = tmp_path / "proxy.json"
    async with http_origin() as web, tcp_origin() as raw:
        listener = {"address": "127.0.0.1:0", "backend_refs": ["web"]}
        tcp = {"address": "127.0.0.1:0", "protocol": "tcp", "backend_refs": ["raw"]}
        backends = {"web": {"endpoints": [str(web.address)]}, "raw": {"endpoints": [str(raw.address)]}}
        write(path, web, listeners={"web": listener, "raw": tcp}, backends=backends)
        async with command("run", "--config", str(path), "--workers", str(workers)) as proxy:
            admin = await proxy.address("admin")
            to_web, to_raw = (parse_address(one) for one in re.findall(r"listening on (\S+)", proxy.output))
            asking = Asking()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(asking.http1, to_web)
                nursery.start_soon(asking.http2, to_web)
                nursery.start_soon(asking.tcp, to_raw)
                nursery.start_soon(asking.one_tcp_connection, to_raw)
                for number in range(1, 21):
                    proxy.signal(signal.SIGHUP)
                    counted = 0.0
                    while counted < number * workers:
                        _, text = await fetch(admin, "/metrics")
                        counted = series(text.decode(), "config_reloads_total").get('result="good"', 0)
                asking.done = True
            assert asking.count > 100
            proxy.signal()
            assert await proxy.ended() == 0
            assert proxy.errors == ""


async def test_options_win_over_the_file(tmp_path, command, fetch, origin):
    path = tmp_path / "proxy.json"
    write(path, origin, admin="127.0.0.1:1", workers=7)
    async with command("run", "--config", str(path), "--admin", "127.0.0.1:0", "--workers", "1") as proxy:
        assert await fetch(await proxy.address("admin"), "/live") == (200, b"live\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["x.py:y"], "either --config FILE or a stack"),
        (["--to", "127.0.0.1:1"], "--to says what the file of --config says"),
        (["--listen", "127.0.0.1:1"], "--listen says what the file of --config says"),
    ],
)
def test_options_that_the_file_has_are_refused(tmp_path, capsys, arguments, told):
    path = tmp_path / "proxy.json"
    path.write_text("{}")
    assert main(["run", "--config", str(path), *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_bad_file_is_told_with_its_line(tmp_path, capsys):
    path = tmp_path / "proxy.json"
    path.write_text('{\n "listners": {}\n}')
    assert main(["run", "--config", str(path)]) == 2
    assert "proxy.json:2: listners: there is no such key; did you mean 'listeners'?" in capsys.readouterr().err


def test_yaml_without_its_library_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    for command in (["run", "--config", str(EXAMPLE)], ["check", str(EXAMPLE)]):
        assert main(command) == 2
        assert "pip install 'linkerd-proxy[config]'" in capsys.readouterr().err


async def test_the_example_serves(tmp_path, command, fetch, origin):
    """The file of the how-to, on ports that are free."""
    text = EXAMPLE.read_text().replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:4191", "127.0.0.1:0")
    path = tmp_path / "proxy.yaml"
    path.write_text(
        text.replace("127.0.0.1:9000", str(origin.address)).replace('{address: "127.0.0.1:9001", weight: 2}', "")
    )
    async with command("run", "--config", str(path)) as proxy:
        assert await fetch(await proxy.address()) == (200, b"hello")


# --- check ---------------------------------------------------------------------------------------


def test_a_good_file(capsys):
    assert main(["check", str(EXAMPLE)]) == 0
    assert capsys.readouterr().out == f"{EXAMPLE} can be served\n"


def test_every_problem_is_told_with_line_and_remedy(tmp_path, capsys):
    path = tmp_path / "proxy.yaml"
    path.write_text(
        "listeners:\n"
        "  web:\n"
        "    addres: 127.0.0.1:1\n"
        "    backend_refs: [apj]\n"
        "backends:\n"
        "  api:\n"
        "    endpoints: [127.0.0.1:2]\n"
        "    retry: {limit: 2000}\n"
    )
    assert main(["check", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"{path}:3: listeners.web.addres: there is no such key; did you mean 'address'?",
        f"{path}:3: listeners.web: the key 'address' is missing: give it a text like '10.0.0.1:80'",
        f"{path}:4: listeners.web.backend_refs[0]: there is no backend 'apj'; did you mean 'api'?",
        f"{path}:8: backends.api.retry.limit: 2000 is out of range: give a number from 0 to 100",
    ]
    assert captured.out == f"{path}:6: backends.api: nothing refers to it: use it, or remove it (a warning)\n"


def test_json_for_machines(tmp_path, capsys):
    path = tmp_path / "proxy.json"
    path.write_text("{}")
    assert main(["check", "--json", str(path)]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["file"], answer["ok"]) == (str(path), False)
    assert answer["findings"] == [
        {"severity": "error", "line": 1, "path": "", "text": "the key 'listeners' is missing: give it a mapping"}
    ]


def test_warnings_alone_are_no_failure(tmp_path, capsys):
    path = tmp_path / "proxy.yaml"
    path.write_text(EXAMPLE.read_text().replace('"[yY](es)?"', '"(y+)+"'))
    assert main(["check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "a repetition repeats" in out
    assert out.endswith(f"{path} can be served, with 1 warning\n")


async def test_ports_are_tried_if_asked(tmp_path, run_command, origin):
    path = tmp_path / "proxy.json"
    listener = {"address": str(origin.address), "backend_refs": ["app"]}
    write(path, origin, listeners={"web": listener})
    assert (await run_command("check", str(path))).status == 0
    tried = await run_command("check", "--ports", str(path))
    assert tried.status == 2
    assert "listeners.web.address: cannot listen on" in tried.errors


# --- schema --------------------------------------------------------------------------------------


def test_the_schema_takes_the_example_and_refuses_what_check_refuses(capsys):
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    from linkerd_proxy.document.load import parse

    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = parse(EXAMPLE.read_text(), "proxy.yaml").plain()
    assert list(validator.iter_errors(document)) == []
    document["listeners"]["web"]["bogus"] = 1
    document["backends"]["api"]["retry"]["limit"] = 2000
    assert len(list(validator.iter_errors(document))) == 2


def test_the_schema_explains_its_keys(capsys):
    assert main(["schema"]) == 0
    definitions = json.loads(capsys.readouterr().out)["$defs"]
    assert definitions["RetryEntry"]["properties"]["limit"]["description"] == "Retries for one request."
    assert definitions["RetryEntry"]["properties"]["limit"]["default"] == 1
    assert definitions["BudgetEntry"]["properties"]["ttl"]["default"] == "10s"


# --- what runs beside it -------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
async def test_metrics_of_all_processes_go_to_the_files_collector(tmp_path, command, fetch, origin, workers):
    from tests.metrics.test_metric_export import metrics_of, pb

    messages = []

    async def collect(request):
        messages.append(pb.ExportMetricsServiceRequest.FromString(await request.body.read()))
        return Response(200)

    async with http_origin(collect) as collector:
        path = tmp_path / "proxy.json"
        write(path, origin, workers=workers, otlp_metrics={"endpoint": f"http://{collector.address}", "interval": "1h"})
        async with command("run", "--config", str(path)) as proxy:
            address = await proxy.address()
            for _ in range(5):
                assert await fetch(address) == (200, b"hello")
            proxy.signal()
            assert await proxy.ended() == 0
            assert proxy.errors == ""
    assert sum(point.as_int for point in metrics_of(messages)["request_total"].sum.data_points) == 5


async def test_the_admin_endpoint_is_as_the_file_says(tmp_path, command, fetch, origin):
    path = tmp_path / "proxy.json"
    admin = {"address": "127.0.0.1:0", "name": "shop", "shutdown": True, "bounds": {"response_latency_ms": [7, 70_000]}}
    write(path, origin, admin=admin)
    async with command("run", "--config", str(path)) as proxy:
        assert await fetch(await proxy.address()) == (200, b"hello")
        view = await proxy.address("admin")
        _, body = await fetch(view, "/metrics")
        bounds = re.findall(r'response_latency_ms_bucket{.*le="([^"]*)"', body.decode())
        assert bounds == ["7.0", "70000.0", "+Inf"]
        async with await dial(view) as stream:
            await stream.send_all(b"POST /shutdown HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n")
            assert b" 200 " in await stream.receive_some()
        assert await proxy.ended() == 0


async def test_the_tap_is_served_where_the_file_says(tmp_path, command, origin):
    authority = Authority()
    write_identity(tmp_path / "id", authority, "web.mesh.local")
    (tmp_path / "id" / "key.pem").chmod(0o600)
    path = tmp_path / "proxy.json"
    tap = {"address": "127.0.0.1:0", "allowed": ["viz.mesh.local"]}
    write(path, origin, identity={"directory": "id"}, tap_server=tap)
    async with command("run", "--config", str(path)) as proxy:
        address = await proxy.address("tap")
        assert await verdict(authority, address, "viz.mesh.local") == "INVALID_ARGUMENT"
        assert await verdict(authority, address, "web.mesh.local") == "PERMISSION_DENIED"
