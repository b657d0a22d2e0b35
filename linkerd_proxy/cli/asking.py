"""Ask a running proxy's admin endpoint, line by line."""

from __future__ import annotations

from collections.abc import Callable

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import ConnectFailed, InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.tcp.connect import Connect

__all__ = ["ask_admin"]

_LONGEST_ERROR = 4096  # bytes of what is shown of an answer that is none
_LONGEST_LINE = 1 << 20


async def ask_admin(address: AnyAddress, path: str, media_type: str, on_line: Callable[[str], None]) -> None:
    """Call ``on_line`` with each line of an answer of this type as it comes, until its end.

    Raises:
        InvalidConfiguration: if nobody listens there, or the answer is not 200, or not an admin endpoint's; one line
            that says what to do.
        ProxyError: if the proxy ends, or breaks off, meanwhile.
    """

    async def respond(response: Response) -> None:
        if response.status != 200:
            text = (await response.body.read(_LONGEST_ERROR)).decode("utf-8", "replace").strip()
            problem = text.partition("\n")[0]
            raise InvalidConfiguration(f"{address}{path.partition('?')[0]} answers {response.status}: {problem}")
        # An application may say 200 to everything.
        if (response.headers.get("content-type") or "").partition(";")[0].strip().lower() != media_type:
            raise InvalidConfiguration(
                f'{address} is no proxy\'s admin endpoint: give what it says after "admin on" when it starts'
            )
        rest = b""
        async for chunk in response.body:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                on_line(line.decode("utf-8", "replace"))
            if len(rest) > _LONGEST_LINE:
                raise InvalidConfiguration(f"{address} sends a line of more than {_LONGEST_LINE} bytes: is it a proxy?")
        if rest:
            on_line(rest.decode("utf-8", "replace"))

    request = Request("GET", path, [("accept", media_type)], authority=str(address))
    try:
        async with opened(Client(protocol="http/1.1") | Connect(address)) as service:
            await service(Exchange(request, respond, own_connection()))
    except ConnectFailed as error:
        raise InvalidConfiguration(
            f"no proxy answers at {address} ({error.problem}): start it with --admin {address}, or give --admin here"
        ) from error
