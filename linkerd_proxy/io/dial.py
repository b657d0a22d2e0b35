"""Connect to an address: quickly where it is simple, by happy eyeballs where a name has several addresses."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from itertools import chain, zip_longest
from typing import TypeAlias, cast

import trio

from linkerd_proxy.address import Address, AnyAddress, UnixAddress, parse_address
from linkerd_proxy.errors import ConnectFailed, ConnectTimeout, ProxyError
from linkerd_proxy.io.options import TcpOptions
from linkerd_proxy.io.sockaddr import SockAddr, from_sockaddr, unix_sockaddr
from linkerd_proxy.io.streams import SocketStream

__all__ = ["dial"]

_ATTEMPT_DELAY = 0.25  # seconds before the next address is tried as well: RFC 8305 section 8
_STANDS = (0, errno.EISCONN)
_PENDING = (errno.EINPROGRESS, errno.EALREADY)
_UNIX_RETRY = 0.01  # seconds; a full backlog of a Unix socket gives EAGAIN and nothing to wait for
_DEFAULT = TcpOptions()
_Candidate: TypeAlias = tuple[int, SockAddr]
Refuse: TypeAlias = Callable[[AnyAddress], ProxyError | None]
"""Says why an address is not to be dialled, or None."""
_REMEDIES = {
    errno.ECONNREFUSED: "check that the upstream listens on that address",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit on open files (fs.file-max)",
    errno.EADDRNOTAVAIL: "too many connections from one source address: give more, or reuse connections",
    errno.ENETUNREACH: "check the route to the upstream",
    errno.EHOSTUNREACH: "check the route to the upstream",
    errno.ENOENT: "check the path: there is no such socket",
    errno.EACCES: "check the permissions of the socket and of the firewall",
    errno.ENODEV: "after the % goes an interface of this host, by name or number",
}


async def dial(
    address: str | AnyAddress,
    *,
    timeout: float = 1.0,
    source: str | None = None,
    options: TcpOptions = _DEFAULT,
    refuse: Refuse | None = None,
) -> SocketStream:
    """Connect and return the stream.

    A name is resolved, and its addresses are tried as RFC 8305 says: families in turn, the next one 250 ms after the
    last or as soon as that one failed; the first that connects wins. An IP address or a Unix socket is tried directly.

    Args:
        address: Where to, or text that :func:`~linkerd_proxy.address.parse_address` reads.
        timeout: Seconds for all of it, the look-up included (Linkerd: 1).
        source: The local IP address to connect from.
        options: For the socket.
        refuse: Asked about each address before it is tried, those of a name as well; what it returns an error for is
            not dialled.

    Raises:
        ConnectTimeout: if no connection stood in time.
        ConnectFailed: if all addresses failed, with the reason of each as a note.
        ProxyError: what ``refuse`` returned for the last of them.

    Cancelled, it leaves nothing open.
    """
    target = parse_address(address) if isinstance(address, str) else address
    await trio.lowlevel.checkpoint_if_cancelled()
    started = trio.current_time()
    attempts = _Attempts(target, source, options, refuse)
    stream = None
    candidate = attempts.direct()
    named = candidate is None and not attempts.errors
    begun = attempts.begin(candidate) if candidate is not None else None
    if begun is not None and begun.stands:  # as over loopback: what does not wait needs no deadline
        stream = await attempts.finish(begun)
    elif begun is not None:
        with trio.move_on_after(timeout):
            stream = await attempts.finish(begun)
    elif named:
        with trio.move_on_after(timeout):
            stream = await attempts.race(await attempts.resolve())
    if stream is not None:
        return stream
    waited = trio.current_time() - started
    await trio.lowlevel.checkpoint()  # failing at once, again and again, must not starve the others
    raise attempts.failure(waited)


class _Begun:
    """A connection that was begun: the socket, and what the system last said of it."""

    __slots__ = ("_stream", "code", "sock", "sockaddr")

    def __init__(self, sock: socket.socket, code: int, sockaddr: SockAddr) -> None:
        self.sock = sock
        self.code = code
        self.sockaddr = sockaddr
        self._stream: SocketStream | None = None

    @property
    def stands(self) -> bool:
        """Whether it stands already."""
        return self.code in _STANDS

    async def finish(self) -> SocketStream:
        """Wait until it stands. Raises OSError if it will not."""
        while self.code == errno.EAGAIN:
            await trio.sleep(_UNIX_RETRY)
            self.code = self.sock.connect_ex(self.sockaddr)
        if self.code not in (*_STANDS, *_PENDING):
            raise OSError(self.code, os.strerror(self.code))
        self._stream = SocketStream(self.sock)
        if self.code in _PENDING:
            await self._stream.wait_connected()
        return self._stream

    def close(self) -> None:
        """Give it up."""
        (self._stream or self.sock).close()

    def __repr__(self) -> str:
        return f"<connection begun to {self.sockaddr!r}: {errno.errorcode.get(self.code, 'stands')}>"


class _Attempts:
    """The attempts at one target, and why each failed."""

    __slots__ = ("errors", "options", "refuse", "source", "target")

    def __init__(self, target: AnyAddress, source: str | None, options: TcpOptions, refuse: Refuse | None) -> None:
        self.target = target
        self.source = source
        self.options = options
        self.refuse = refuse
        self.errors: list[tuple[str, OSError | ProxyError]] = []

    def direct(self) -> _Candidate | None:
        """Return the one address to try if the target is no name, or note why there can be none."""
        target = self.target
        if isinstance(target, UnixAddress):
            return socket.AF_UNIX, unix_sockaddr(target)
        if _is_ipv4(target.host):
            return socket.AF_INET, (target.host, target.port)
        if not target.is_ip:
            return None
        try:  # the interface after % must become a number
            numeric = socket.getaddrinfo(target.host, target.port, flags=socket.AI_NUMERICHOST)
        except (OSError, ValueError):
            ip, _, zone = target.host.partition("%")
            self.errors.append((str(target), OSError(errno.ENODEV, f"{zone!r} is no interface for {ip}")))
            return None
        return socket.AF_INET6, cast("SockAddr", numeric[0][4])

    async def resolve(self) -> list[_Candidate]:
        """Return the addresses of the target's name, in the order in which to try them."""
        target = self.target
        assert isinstance(target, Address)
        try:
            found = await trio.socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except OSError as error:
            self.errors.append(("look-up", error))
            return []
        except ValueError:  # of the encoding that names have in the DNS, or a NUL
            self.errors.append(("look-up", socket.gaierror(socket.EAI_NONAME, f"{target.host[:300]!r} is no name")))
            return []
        return _interleaved([(family, cast("SockAddr", sockaddr)) for family, _, _, _, sockaddr in found])

    async def race(self, candidates: list[_Candidate]) -> SocketStream | None:
        """Return the first connection that stands, or None if all failed."""
        if len(candidates) == 1:
            return await self._attempt(candidates[0])
        winner: SocketStream | None = None
        whole = False

        async def run(candidate: _Candidate, failed: trio.Event) -> None:
            nonlocal winner
            stream = await self._attempt(candidate)
            if stream is None:
                failed.set()
            elif winner is None:
                winner = stream
                nursery.cancel_scope.cancel()
            else:
                stream.close()

        try:
            async with trio.open_nursery() as nursery:
                for candidate in candidates:
                    failed = trio.Event()
                    nursery.start_soon(run, candidate, failed)
                    with trio.move_on_after(_ATTEMPT_DELAY):
                        await failed.wait()
            whole = True
        finally:
            if winner is not None and not whole:
                winner.close()
        return winner

    async def _attempt(self, candidate: _Candidate) -> SocketStream | None:
        begun = self.begin(candidate)
        return await self.finish(begun) if begun is not None else None

    def begin(self, candidate: _Candidate) -> _Begun | None:
        """Begin to connect, or note why not."""
        family, sockaddr = candidate
        address = from_sockaddr(sockaddr)
        try:
            if self.refuse is not None and (refused := self.refuse(address)) is not None:
                raise refused
            return self._start(family, sockaddr)
        except (OSError, ProxyError) as error:
            self.errors.append((str(address), error))
            return None

    def _start(self, family: int, sockaddr: SockAddr) -> _Begun:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            self.options.apply(sock)
            if self.source is not None and family != socket.AF_UNIX:
                sock.bind((self.source, 0))
            code = sock.connect_ex(sockaddr)
            if code == errno.EINPROGRESS:
                code = sock.connect_ex(sockaddr)  # over loopback it stands already: asking is cheaper than waiting
        except OSError:
            sock.close()
            raise
        return _Begun(sock, code, sockaddr)

    async def finish(self, begun: _Begun) -> SocketStream | None:
        """Wait until the connection stands, or note why not. Cancelled, it is closed."""
        stream = None
        stands = False
        try:
            stream = await begun.finish()
            stands = True
        except OSError as error:
            self.errors.append((str(from_sockaddr(begun.sockaddr)), error))
        finally:
            if not stands:
                begun.close()
        return stream

    def failure(self, waited: float) -> ProxyError:
        """Return the error that says how all attempts failed."""
        endpoint = str(self.target)
        if not self.errors:
            return ConnectTimeout("connecting took too long", layer="Connect", endpoint=endpoint, waited=waited)
        where, error = self.errors[-1]
        if isinstance(error, ProxyError):
            return error
        remedy = _REMEDIES.get(error.errno or 0, "")
        if isinstance(error, socket.gaierror):
            remedy = "check the name and this host's resolver"
        problem = f"connecting failed: {error.strerror or error}"
        failure = ConnectFailed(problem, layer="Connect", endpoint=endpoint, waited=waited, remedy=remedy)
        if len(self.errors) > 1:
            for where, error in self.errors:
                failure.add_note(f"{where}: {error.strerror if isinstance(error, OSError) else error}")
        failure.__cause__ = error
        return failure

    def __repr__(self) -> str:
        return f"<attempts at {self.target}, {len(self.errors)} failed>"


def _is_ipv4(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError):
        return False
    return True


def _interleaved(found: list[_Candidate]) -> list[_Candidate]:
    """Order addresses so that families take turns, beginning with that of the first (RFC 8305 section 4)."""
    unique = list(dict.fromkeys(found))
    if not unique:
        return []
    first = [one for one in unique if one[0] == unique[0][0]]
    others = [one for one in unique if one[0] != unique[0][0]]
    return [one for one in chain.from_iterable(zip_longest(first, others)) if one is not None]
