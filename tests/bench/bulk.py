"""The two ends of a big transfer: ``python -m tests.bench.bulk PORT`` answers 8 bytes of length with that many bytes."""

from __future__ import annotations

import socket
import ssl
import struct
import sys
from contextlib import suppress

CHUNK = memoryview(bytes(1 << 20))


def serve(port: int) -> None:
    """Send to each connection, one after the other, as much as it asks for."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            stream, _ = listener.accept()
            # A proxy that takes a silent client for one whose server speaks first connects early, and may think again.
            with stream, suppress(ConnectionResetError):
                asked = stream.recv(8, socket.MSG_WAITALL)
                if len(asked) == 8:
                    _send(stream, struct.unpack(">Q", asked)[0])


def _send(stream: socket.socket, left: int) -> None:
    try:
        while left:
            left -= stream.send(CHUNK[: min(left, len(CHUNK))])
    except OSError:
        return  # the receiver went away: the next connection is another round


def receive(port: int, size: int, context: ssl.SSLContext | None = None) -> int:
    """Ask for ``size`` bytes, over TLS where there is a context, and return how many came before the end.

    Without TLS the kernel discards them (MSG_TRUNC), so that the receiver takes as little of the machine as it can.
    """
    buffer = bytearray(1 << 20)
    received = 0
    with socket.create_connection(("127.0.0.1", port), timeout=30) as stream:
        flags = socket.MSG_TRUNC
        if context is not None:
            stream, flags = context.wrap_socket(stream, server_hostname="localhost"), 0
        # The first byte is zero, which no HTTP message begins with: detection falls through at once.
        stream.sendall(struct.pack(">Q", size))
        while count := stream.recv_into(buffer, 0, flags):
            received += count
        stream.close()
    return received


if __name__ == "__main__":
    serve(int(sys.argv[1]))
