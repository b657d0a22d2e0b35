"""A real Prometheus: it takes native histograms from two proxies, and its quantiles over both are right."""

import json
import random
import shutil
import subprocess
import urllib.parse
import urllib.request

import pytest
import trio

from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import serve
from linkerd_proxy.io.dial import dial
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import admin
from linkerd_proxy.metrics.process import process_metrics
from linkerd_proxy.metrics.registry import Registry
from tests.patience import PATIENCE
from tests.ports import held_port

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
pytestmark = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL), reason="prometheus is not installed (apt install prometheus)"
)

QUANTILES = (0.5, 0.9, 0.99, 0.999)


def filled(seed, count, shift):
    """Return a proxy's registry and the latencies in it, long-tailed."""
    registry, chance = Registry(), random.Random(seed)
    values = [chance.lognormvariate(shift, 1.2) for _ in range(count)]
    for value in values:
        registry.histogram("response_latency_ms", "Latency", direction="inbound").record(value)
    registry.counter("request_total", "Requests", direction="inbound").value = count
    return registry, values


async def serve_admin(nursery, registry):
    async def fetch():
        return registry

    listeners = await open_listeners("127.0.0.1:0")
    stack = admin(Drain(), registry=fetch)
    await nursery.start(lambda *, task_status: serve(stack, listeners, task_status=task_status))
    return listeners[0].address


async def fetched(url):
    def get():
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return json.load(answer)

    return await trio.to_thread.run_sync(get)


async def query(base, text, **more):
    """Return the answers, each as its time and its value."""
    found = await fetched(f"{base}/api/v1/query?{urllib.parse.urlencode({'query': text, **more})}")
    return [(one["value"][0], float(one["value"][1])) for one in found["data"]["result"]]


async def until(base, text, expected):
    """Ask until the answer is the expected one, and return for which moment: a scrape comes when Prometheus wants."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                for when, value in await query(base, text):
                    if value == expected:
                        return when
            except OSError:
                pass  # it starts
            await trio.sleep(0.1)


async def test_quantiles_over_two_proxies_are_within_the_schemas_bound(nursery, tmp_path):
    (first, some), (second, others) = filled(1, 3000, 1.0), filled(2, 2000, 3.0)
    targets = [str(await serve_admin(nursery, registry)) for registry in (first, second)]
    job = {"job_name": "proxies", "static_configs": [{"targets": targets}]}
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}
    (tmp_path / "prometheus.json").write_text(json.dumps(config))
    with held_port() as port:
        await scraped(tmp_path, port, sorted(some + others))


async def scraped(tmp_path, port, values):
    """Run Prometheus on a port, and ask it for quantiles."""
    process = subprocess.Popen(  # noqa: ASYNC220  # it returns at once
        [
            PROMETHEUS,
            f"--config.file={tmp_path}/prometheus.json",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=native-histograms",
            "--log.level=error",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{port}"
        await until(base, "sum(request_total)", 5000.0)
        # At that moment both were there; a scrape that comes too late on a loaded machine changes only what comes then.
        when = await until(base, "histogram_count(sum(response_latency_ms))", 5000.0)
        for q in QUANTILES:
            ((_, answer),) = await query(base, f"histogram_quantile({q}, sum(response_latency_ms))", time=when)
            exact = values[int(q * len(values))]
            # A bucket of schema 3 is 9 % wide; the neighbouring value may lie in the next one.
            assert abs(answer / exact - 1) < 0.19, q
        ((_, total),) = await query(base, "histogram_sum(sum(response_latency_ms))", time=when)
        assert total == pytest.approx(sum(values))
    finally:
        process.kill()
        await trio.to_thread.run_sync(process.wait)


async def test_promtool_finds_nothing_to_say_about_the_names(nursery):
    registry, _ = filled(1, 10, 1.0)
    with process_metrics(registry):
        address = await serve_admin(nursery, registry)
        async with await dial(address) as stream:
            await stream.send_all(b"GET /metrics HTTP/1.0\r\n\r\n")
            data = b""
            while chunk := await stream.receive_some():
                data += chunk
    text = data.partition(b"\r\n\r\n")[2]
    done = await trio.run_process(
        [PROMTOOL, "check", "metrics"], stdin=text, capture_stdout=True, capture_stderr=True, check=False
    )
    told = (done.stdout + done.stderr).decode().splitlines()
    # Linkerd's own names of this family: milliseconds where Prometheus would have seconds.
    assert [line for line in told if "response_latency_ms" not in line] == []
