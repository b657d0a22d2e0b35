"""A stream that closes without waiting is closed in place, whatever the service did."""

import pytest
import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import ConnectFailed

NOBODY = Address("127.0.0.1", 1)


class Stream(trio.abc.HalfCloseableStream):
    """Notes how it was closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def close_nowait(self) -> None:
        self.closed.append("nowait")

    async def aclose(self) -> None:
        self.closed.append("waiting")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise trio.BrokenResourceError

    async def send_eof(self) -> None:
        raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        raise trio.BrokenResourceError


async def returns(connection: Connection) -> None:
    assert not connection.stream.closed  # type: ignore[attr-defined]


async def fails(connection: Connection) -> None:
    raise ConnectFailed("nobody there")


async def waits(connection: Connection) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("service", [returns, fails])
async def test_it_is_closed_in_place(service) -> None:
    stream = Stream()
    await contained(service, Connection(stream, NOBODY, NOBODY))
    assert set(stream.closed) == {"nowait"}


async def test_it_is_closed_when_the_service_is_cancelled() -> None:
    stream = Stream()
    with trio.CancelScope() as scope:
        scope.cancel()
        await contained(waits, Connection(stream, NOBODY, NOBODY))
    assert scope.cancelled_caught
    assert set(stream.closed) == {"nowait"}
