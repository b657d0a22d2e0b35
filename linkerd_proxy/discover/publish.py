"""The set of endpoints that a source keeps, and the readers who follow it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from weakref import WeakSet

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.endpoint import Add, Endpoint, Gone, Remove, Reset, Resolution, Update

__all__ = ["Published"]


class Published(Resolution):
    """A resolution whose source says what it knows with :meth:`publish`, :meth:`change` and :meth:`withdraw`.

    It keeps the last set, and a reader holds one update at most: whoever misses one gets everything as a Reset.
    """

    __slots__ = ("_readers", "endpoints", "problem")

    def __init__(self) -> None:
        self.endpoints: dict[AnyAddress, Endpoint] | None = None
        """The set, None as long as nothing is known."""
        self.problem: str | None = None
        """Why the name does not exist, if that is known."""
        self._readers: WeakSet[_Reader] = WeakSet()

    @property
    def settled(self) -> bool:
        """Whether anything is known yet."""
        return self.endpoints is not None or self.problem is not None

    def publish(self, endpoints: Iterable[Endpoint]) -> None:
        """Replace the set. Readers hear of the differences only; of none, nothing.

        Of several endpoints with one address the last one stands.
        """
        new = {endpoint.address: endpoint for endpoint in endpoints}
        old = self.endpoints
        if old is None:
            self.endpoints = new
            self.problem = None
            self._tell(Reset(tuple(new.values())))
            return
        came = tuple(endpoint for address, endpoint in new.items() if old.get(address) != endpoint)
        went = tuple(address for address in old if address not in new)
        self.change(came, went)

    def change(self, came: tuple[Endpoint, ...] = (), went: tuple[AnyAddress, ...] = ()) -> None:
        """Add (or change) some endpoints and remove others, at a cost of these alone."""
        if self.endpoints is None:
            self.endpoints = {}
            self.problem = None
        for endpoint in came:
            self.endpoints[endpoint.address] = endpoint
        for address in went:
            self.endpoints.pop(address, None)
        if came and went:
            self._tell(self.snapshot())
        elif came:
            self._tell(Add(came))
        elif went:
            self._tell(Remove(went))

    def withdraw(self, problem: str) -> None:
        """Say that the name does not exist: there is nobody to wait for."""
        if self.problem == problem:
            return
        self.endpoints = None
        self.problem = problem
        self._tell(Gone(problem))

    def snapshot(self) -> Update:
        """Return everything as one update."""
        if self.endpoints is None:
            return Gone(self.problem or "nothing is known yet")
        return Reset(tuple(self.endpoints.values()))

    def updates(self) -> AsyncIterator[Update]:
        """Return the updates for one reader, see :meth:`~linkerd_proxy.core.endpoint.Resolution.updates`."""
        reader = _Reader(self)
        self._readers.add(reader)
        return reader

    def _tell(self, update: Update) -> None:
        for reader in list(self._readers):
            reader.tell(update)

    def __repr__(self) -> str:
        if self.problem is not None:
            return f"<Published: gone, {self.problem}>"
        return f"<Published {'nothing yet' if self.endpoints is None else f'{len(self.endpoints)} endpoints'}>"


class _Reader(AsyncIterator[Update]):
    """One who follows. It is forgotten when nobody holds it any more."""

    __slots__ = ("__weakref__", "_event", "_missed", "_next", "_published")

    def __init__(self, published: Published) -> None:
        self._published = published
        self._next: Update | None = published.snapshot() if published.settled else None
        self._missed = False
        self._event = trio.Event()

    def tell(self, update: Update) -> None:
        # Two updates make a Reset, which is put together only when it is read.
        self._missed = self._next is not None
        self._next = update
        self._event.set()

    async def __anext__(self) -> Update:
        await trio.lowlevel.checkpoint()
        while self._next is None:
            self._event = trio.Event()
            await self._event.wait()
        update = self._published.snapshot() if self._missed else self._next
        self._next = None
        self._missed = False
        return update
