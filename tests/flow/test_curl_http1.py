"""curl and raw bytes through the command, over HTTP/1.0 and HTTP/1.1, with both codecs."""

from __future__ import annotations

import json
import socket

import pytest

from tests.flow.application import Application, random_bytes
from tests.flow.command import Proxy
from tests.flow.curl import curl
from tests.patience import PATIENCE


def raw(proxy: Proxy, request: bytes) -> bytes:
    """Send bytes, and return everything that comes until the proxy closes."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as stream:
        stream.sendall(request)
        received = bytearray()
        while chunk := stream.recv(1 << 16):
            received += chunk
    return bytes(received)


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
def test_get_is_answered_in_the_clients_version(http1: Proxy, version: str):
    answer = curl(version, f"{http1.origin}/hello")
    assert (answer.status, answer.body) == (200, b"hello, world!")
    assert answer.version in {"1.1", version.removeprefix("--http")}


def test_the_connection_is_kept_alive(http1: Proxy):
    answer = curl("-v", f"{http1.origin}/hello", f"{http1.origin}/hello")
    assert "Re-using existing connection" in answer.errors


def test_http_1_0_without_keep_alive_is_closed(http1: Proxy):
    received = raw(http1, b"GET /hello HTTP/1.0\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.split()[1] == b"200"
    assert body == b"hello, world!"


def test_http_1_0_client_gets_a_chunked_answer_without_chunks(http1: Proxy):
    received = raw(http1, b"GET /chunked/30000 HTTP/1.0\r\nHost: a\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == random_bytes(30_000)


@pytest.mark.parametrize("length", [55, 0])
def test_head_keeps_the_length_and_has_no_body(http1: Proxy, length: int):
    answer = curl("-I", f"{http1.origin}/bytes/{length}")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.get_all("content-length") == [str(length)]


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body_get_no_framing(http1: Proxy, status: int):
    answer = curl(f"{http1.origin}/status/{status}")
    assert (answer.status, answer.body) == (status, b"")
    assert answer.get_all("x-status") == [str(status)]
    assert not answer.get_all("transfer-encoding")


def test_error_statuses_pass_through(http1: Proxy):
    assert [curl(f"{http1.origin}/status/{status}").status for status in (404, 500, 503)] == [404, 500, 503]


def test_a_big_download_is_exact(http1: Proxy):
    assert curl(f"{http1.origin}/bytes/10000000").body == random_bytes(10_000_000)


def test_a_chunked_download_is_exact_and_stays_chunked(http1: Proxy):
    answer = curl(f"{http1.origin}/chunked/1000000")
    assert answer.body == random_bytes(1_000_000)
    assert answer.get_all("transfer-encoding") == ["chunked"]


def test_an_answer_that_the_close_ends_is_complete(http1: Proxy):
    assert curl(f"{http1.origin}/until-close/300000").body == random_bytes(300_000)


def test_upload_with_length_and_expect(http1: Proxy, application: Application):
    data = random_bytes(3_000_000)
    answer = curl("-v", "-H", "Expect: 100-continue", "--data-binary", "@-", f"{http1.origin}/echo", stdin=data)
    assert answer.body == data
    assert "< HTTP/1.1 100 Continue" in answer.errors
    assert application.asked[-1].get_all("content-length") == ["3000000"]
    assert not application.asked[-1].get_all("transfer-encoding")


def test_chunked_upload(http1: Proxy, application: Application):
    data = random_bytes(1_000_001)
    answer = curl(
        "-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary", "@-", f"{http1.origin}/echo", stdin=data
    )
    assert answer.body == data
    assert application.asked[-1].get_all("transfer-encoding") == ["chunked"]
    assert not application.asked[-1].get_all("content-length")


def test_an_empty_body_keeps_its_length_of_zero(http1: Proxy, application: Application):
    assert curl("-X", "POST", "-H", "Content-Length: 0", f"{http1.origin}/echo").status == 200
    assert application.asked[-1].get_all("content-length") == ["0"]


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "PURGE"])
def test_requests_without_a_body_get_no_framing(http1: Proxy, application: Application, method: str):
    answer = curl("-X", method, f"{http1.origin}/echo")
    assert (answer.status, answer.get_all("x-method")) == (200, [method])
    assert not application.asked[-1].get_all("transfer-encoding")
    assert not application.asked[-1].get_all("content-length")


def test_an_early_answer_refuses_an_upload(http1: Proxy):
    answer = curl(
        "-H", "Expect: 100-continue", "--data-binary", "@-", f"{http1.origin}/refused", stdin=bytes(2_000_000)
    )
    assert (answer.status, answer.body) == (401, b"no")


def test_response_trailers_arrive(http1: Proxy):
    request = b"GET /trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close\r\n\r\n"
    received = raw(http1, request)
    assert received.lower().endswith(b"0\r\nx-checksum: abc123\r\n\r\n")


def test_request_trailers_arrive(http1: Proxy):
    request = (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n"
        b"5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n"
    )
    received = raw(http1, request).lower()
    assert b"\r\nx-trailer: x-sum=42\r\n" in received
    assert received.endswith(b"hello")


def test_early_hints_come_before_the_answer(http1: Proxy):
    received = raw(http1, b"GET /hints HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 103 ")
    assert b"HTTP/1.1 200 " in received
    assert received.endswith(b"with hints")


def test_repeated_fields_stay_apart(http1: Proxy):
    assert curl(f"{http1.origin}/cookies").get_all("set-cookie") == ["a=1", "b=2; path=/"]


def test_hop_by_hop_fields_stop_here_and_others_go_on(http1: Proxy):
    answer = curl(
        *("-H", "Connection: close, x-hop", "-H", "X-Hop: 1", "-H", "X-End: 2", "-H", "Host: example.test"),
        *("-H", "Proxy-Connection: keep-alive", "-H", "Keep-Alive: timeout=5"),
        f"{http1.origin}/headers",
    )
    fields = dict(json.loads(answer.body))
    assert fields["host"] == "example.test"
    assert fields["x-end"] == "2"
    assert not {"x-hop", "proxy-connection", "keep-alive"} & set(fields)


def test_pipelined_requests_are_answered_in_order(http1: Proxy):
    requests = b"".join(b"GET /bytes/%d HTTP/1.1\r\nHost: a\r\n\r\n" % size for size in (10, 20, 30))
    last = b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    received = raw(http1, requests + last)
    places = [received.find(random_bytes(size)) for size in (10, 20, 30)]
    assert -1 not in places
    assert places == sorted(places)
    assert received.endswith(b"hello, world!")


@pytest.mark.parametrize("path", ["cut/100000", "cut-chunked/100000"])
@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
def test_an_answer_that_was_cut_off_never_looks_complete(http1: Proxy, path: str, version: str):
    answer = curl(version, f"{http1.origin}/{path}", check=False)
    # 18 partial file, 56 failure in receiving; a 502 is as good, if nothing had been passed on.
    assert answer.exit_status in {18, 56} or answer.status == 502


def test_a_bad_request_is_refused_and_the_proxy_goes_on(http1: Proxy, application: Application):
    before = len(application.asked)
    received = raw(
        http1, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert received.startswith(b"HTTP/1.1 400 ")
    assert len(application.asked) == before
    assert curl(f"{http1.origin}/hello").status == 200


def test_many_clients_at_once(http1: Proxy):
    urls = [f"{http1.origin}/bytes/{1000 + number}" for number in range(60)]
    discarded = [word for url in urls for word in (url, "-o", "/dev/null")]
    answer = curl("-Z", "--parallel-max", "30", "-w", "%{http_code} %{size_download}\n", *discarded)
    lines = answer.output.decode().split("\n")
    assert sorted(line for line in lines if line) == sorted(f"200 {1000 + number}" for number in range(60))
