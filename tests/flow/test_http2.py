"""HTTP/2 with prior knowledge through the command: curl, nghttp, h2load, and a client that shows every frame."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from tests.flow.application import Application, random_bytes
from tests.flow.command import Proxy
from tests.flow.curl import curl
from tests.flow.h2_client import H2Client
from tests.patience import PATIENCE

H2 = "--http2-prior-knowledge"


def tool(name: str, *arguments: str) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed: apt install nghttp2-client")
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=True)
    return result.stdout


def test_get(http2: Proxy, application: Application):
    answer = curl(H2, f"{http2.origin}/hello")
    assert (answer.status, answer.version, answer.body) == (200, "2", b"hello, world!")
    assert application.asked[-1].version == "2"


def test_head_keeps_the_length(http2: Proxy):
    answer = curl(H2, "-I", f"{http2.origin}/bytes/55")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.get_all("content-length") == ["55"]
    assert curl(H2, "-I", f"{http2.origin}/bytes/0").get_all("content-length") == ["0"]


def test_a_big_download_is_exact(http2: Proxy):
    assert curl(H2, f"{http2.origin}/bytes/10000000").body == random_bytes(10_000_000)


def test_a_big_upload_is_exact(http2: Proxy):
    data = random_bytes(3_000_000)
    assert curl(H2, "--data-binary", "@-", f"{http2.origin}/echo", stdin=data).body == data


def test_an_upload_without_a_length(http2: Proxy, application: Application):
    data = random_bytes(300_000)
    assert curl(H2, "-T", "-", f"{http2.origin}/echo", stdin=data).body == data
    assert not application.asked[-1].get_all("content-length")


def test_an_early_answer_ends_an_upload(http2: Proxy):
    with H2Client(http2.port) as client:
        stream = client.request("/refused", method="POST", end=False)
        client.data(stream, bytes(1000))
        client.read_until_over(stream)
        assert (client.status(stream), client.bodies[stream]) == ("401", b"no")


def test_trailers_both_ways(http2: Proxy):
    with H2Client(http2.port) as client:
        answered = client.request("/trailers", ("te", "trailers"))
        asked = client.request("/echo", ("te", "trailers"), method="POST", end=False)
        client.data(asked, b"hello")
        client.codec.send_headers(asked, [("x-sum", "42")], end_stream=True)
        client.stream.sendall(client.codec.data_to_send())
        client.read_until_over(answered, asked)
        assert client.trailers[answered] == [("x-checksum", "abc123")]
        assert client.bodies[answered] == b"some content"
        assert ("x-trailer", "x-sum=42") in client.heads[asked]


def test_early_hints_come_before_the_answer(http2: Proxy):
    with H2Client(http2.port) as client:
        stream = client.request("/hints")
        client.read_until_over(stream)
        assert [dict(head)[":status"] for head in client.informational[stream]] == ["103"]
        assert client.bodies[stream] == b"with hints"


def test_authority_and_fields_pass_through(http2: Proxy):
    answer = curl(H2, "-H", "Host: example.test", "-H", "X-End: 2", "-H", "Cookie: a=1; b=2", f"{http2.origin}/headers")
    fields = json.loads(answer.body)
    assert [":authority", "example.test"] in fields
    assert ["x-end", "2"] in fields
    assert "; ".join(value for name, value in fields if name == "cookie") == "a=1; b=2"


def test_many_streams_on_one_connection(http2: Proxy):
    with H2Client(http2.port) as client:
        streams = [client.request(f"/bytes/{20_000 + number}") for number in range(90)]
        client.read_until_over(*streams)
        assert all(client.bodies[one] == random_bytes(20_000 + number) for number, one in enumerate(streams))


def test_a_slow_stream_does_not_hold_up_another(http2: Proxy, application: Application):
    application.gate.clear()
    with H2Client(http2.port) as client:
        slow, quick = client.request("/gated/100000"), client.request("/hello")
        client.read_until_over(quick)
        assert slow not in client.ended
        application.gate.set()
        client.read_until_over(slow)
        assert client.bodies[slow] == random_bytes(100_000)


@pytest.mark.parametrize("path", ["/cut/100000", "/cut-chunked/100000"])
def test_a_stream_that_was_cut_off_is_reset_and_the_connection_stays(http2: Proxy, path: str):
    with H2Client(http2.port) as client:
        stream = client.request(path)
        client.read_until_over(stream)
        assert stream not in client.ended
        assert client.resets[stream] == 2  # INTERNAL_ERROR, as the origin said
        again = client.request("/hello")
        client.read_until_over(again)
        assert client.status(again) == "200"


def test_a_cancelled_stream_frees_its_place(http2: Proxy, application: Application):
    application.gate.clear()
    with H2Client(http2.port) as client:
        for _ in range(5):
            stream = client.request("/gated/100000")
            application.wait_for_waiting(1)
            client.reset(stream)
        again = client.request("/hello")
        client.read_until_over(again)
        assert client.status(again) == "200"
    application.gate.set()


def test_nghttp_reads_what_the_origin_sent(http2: Proxy):
    assert "hello, world!" in tool("nghttp", f"{http2.origin}/hello")


def test_h2load_gets_every_answer(http2: Proxy):
    text = tool("h2load", "-n600", "-c6", "-m20", f"{http2.origin}/hello")
    assert re.search(r"600 done, 600 succeeded, 0 failed, 0 errored, 0 timeout", text), text
    assert "600 2xx" in text
