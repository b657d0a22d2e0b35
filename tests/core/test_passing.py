"""Bodies that look at what passes change nothing of it."""

import pytest

from linkerd_proxy.core.message import EMPTY, Response, Streamed, Whole
from linkerd_proxy.core.passing import Passing, counted, size_of
from linkerd_proxy.errors import UpstreamReset
from linkerd_proxy.headers import Headers


class Seen(Passing):
    """Keeps what it saw, with the trailers that were there then."""

    def __init__(self, body):
        super().__init__(body)
        self.seen = []

    def passed(self, chunk):
        self.seen.append((chunk, self.trailers))


def streamed(*parts, trailers=None, length=None):
    async def chunks():
        for part in parts:
            if isinstance(part, Exception):
                raise part
            yield part
        body.trailers = trailers

    body = Streamed(chunks(), length)
    return body


async def test_every_chunk_is_shown_as_it_passes_and_the_end_with_its_trailers():
    trailers = Headers([("x", "y")])
    body = Seen(streamed(b"one", b"two", trailers=trailers, length=6))
    assert (body.length, body.trailers) == (6, None)
    assert [chunk async for chunk in body] == [b"one", b"two"]
    assert body.seen == [(b"one", None), (b"two", None), (b"", trailers)]
    assert body.trailers is trailers
    assert repr(body).startswith("<Seen <linkerd_proxy.core.message.Streamed")


async def test_a_failure_passes_and_counts_nothing():
    body = counted(streamed(b"one", UpstreamReset("gone")))
    assert await body.pull() == b"one"
    with pytest.raises(UpstreamReset):
        await body.pull()
    assert size_of(body) == 3


async def test_sizes_are_of_what_was_pulled_and_of_a_whole_body_all():
    whole = Whole(b"all of it")
    assert counted(whole) is whole
    assert size_of(whole) == 9
    assert await whole.pull()
    assert size_of(whole) == 9
    body = counted(streamed(b"one", b"two"))
    assert (await body.pull(), size_of(body)) == (b"one", 3)
    assert size_of(EMPTY) == 0


def test_a_changed_response_keeps_the_rest():
    response = Response(304, [("a", "b")], version="2", declared_length=7)
    body = Whole(b"x")
    changed = response.replace(body=body)
    assert (changed.status, changed.headers, changed.body) == (304, response.headers, body)
    assert (changed.version, changed.declared_length) == ("2", 7)
    changed = response.replace(headers=Headers(), version="1.1")
    assert (changed.headers.raw, changed.body, changed.version, changed.declared_length) == ([], EMPTY, "1.1", 7)
