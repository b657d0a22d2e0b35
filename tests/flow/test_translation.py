"""HTTP/1 and HTTP/2 translated into each other, served by the command from a user's file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.application import Application, random_bytes
from tests.flow.command import Proxy, proxy
from tests.flow.curl import curl
from tests.flow.h2_client import H2Client

H2 = "--http2-prior-knowledge"
STACK = """\
from linkerd_proxy.detect import Detect
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward

to = Connect("127.0.0.1:{port}")
proxy = Detect(http=Http() | Rescue() | Client(protocol="{protocol}") | to, otherwise=Forward() | to)
"""


@pytest.fixture(scope="module")
def to_http1(http1_origin: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with _translating(tmp_path_factory.mktemp("to-http1"), http1_origin, "http/1.1") as running:
        yield running


@pytest.fixture(scope="module")
def to_http2(http2_origin: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with _translating(tmp_path_factory.mktemp("to-http2"), http2_origin, "h2") as running:
        yield running


def _translating(directory: Path, port: int, protocol: str):
    path = directory / "my_mesh.py"
    path.write_text(STACK.format(port=port, protocol=protocol))
    return proxy(f"{path}:proxy")


@pytest.mark.parametrize(
    # An HTTP/1.0 client's request stays one, as in Linkerd: its answer must be one that the client can read.
    ("client", "version"),
    [("--http1.0", "1.0"), ("--http1.1", "1.1"), (H2, "1.1")],
    ids=["1.0", "1.1", "2"],
)
def test_every_client_reaches_an_http1_origin(to_http1: Proxy, application: Application, client: str, version: str):
    data = random_bytes(200_000)
    answer = curl(client, "-H", "Expect:", "--data-binary", "@-", f"{to_http1.origin}/echo", stdin=data)
    assert (answer.status, answer.body) == (200, data)
    assert application.asked[-1].version == version
    assert len(application.asked[-1].get_all("host")) == 1


@pytest.mark.parametrize("client", ["--http1.0", "--http1.1", H2], ids=["1.0", "1.1", "2"])
def test_every_client_reaches_an_http2_origin(to_http2: Proxy, application: Application, client: str):
    data = random_bytes(200_000)
    answer = curl(client, "-H", "Expect:", "--data-binary", "@-", f"{to_http2.origin}/echo", stdin=data)
    assert (answer.status, answer.body) == (200, data)
    names = [name for name, _ in application.asked[-1].headers]
    assert names.count(":authority") == 1
    assert not {"host", "connection", "transfer-encoding"} & set(names)


def test_chunked_upload_to_http2(to_http2: Proxy):
    data = random_bytes(500_000)
    options = ["-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary", "@-"]
    assert curl("--http1.1", *options, f"{to_http2.origin}/echo", stdin=data).body == data


def test_upload_with_expect_to_http2(to_http2: Proxy):
    data = random_bytes(2_000_000)
    options = ["-H", "Expect: 100-continue", "--data-binary", "@-"]
    assert curl("--http1.1", *options, f"{to_http2.origin}/echo", stdin=data).body == data


def test_big_download_both_ways(to_http1: Proxy, to_http2: Proxy):
    assert curl(H2, f"{to_http1.origin}/bytes/5000000").body == random_bytes(5_000_000)
    assert curl("--http1.1", f"{to_http2.origin}/bytes/5000000").body == random_bytes(5_000_000)


def test_chunked_and_close_delimited_answers_reach_an_http2_client(to_http1: Proxy):
    assert curl(H2, f"{to_http1.origin}/chunked/300000").body == random_bytes(300_000)
    assert curl(H2, f"{to_http1.origin}/until-close/300000").body == random_bytes(300_000)


def test_trailers_of_an_http1_origin_reach_an_http2_client(to_http1: Proxy):
    with H2Client(to_http1.port) as client:
        stream = client.request("/trailers", ("te", "trailers"))
        client.read_until_over(stream)
        assert client.trailers[stream] == [("x-checksum", "abc123")]


def test_head_through_both(to_http1: Proxy, to_http2: Proxy):
    for version, running in ((H2, to_http1), ("--http1.1", to_http2)):
        assert curl(version, "-I", f"{running.origin}/bytes/55").get_all("content-length") == ["55"]


@pytest.mark.parametrize("path", ["/cut/100000", "/cut-chunked/100000"])
def test_a_cut_off_http1_answer_resets_the_http2_stream(to_http1: Proxy, path: str):
    with H2Client(to_http1.port) as client:
        stream = client.request(path)
        client.read_until_over(stream)
        if client.heads.get(stream) and client.status(stream) == "502":
            return  # nothing had been passed on yet: a whole answer of the proxy's own
        assert stream in client.resets
        assert stream not in client.ended


@pytest.mark.parametrize("path", ["/cut/100000", "/cut-chunked/100000"])
def test_a_reset_http2_answer_breaks_the_http1_connection(to_http2: Proxy, path: str):
    answer = curl("--http1.1", f"{to_http2.origin}{path}", check=False)
    assert answer.exit_status in {18, 56} or answer.status == 502
