"""Routes by path, header and method, and a split. Usage: route.py [LISTEN [STABLE [CANARY]]]"""

import sys

import trio

import linkerd_proxy as lp
from linkerd_proxy import Match, Rule


def proxy(stable: str = "127.0.0.1:9000", canary: str = "127.0.0.1:9001") -> lp.Stack[lp.Connection]:
    old, new = lp.Client() | lp.Connect(stable), lp.Client() | lp.Connect(canary)
    split = lp.Split([lp.Backend(old, 90, "stable"), lp.Backend(new, 10, "canary")])
    rules = [
        Rule([Match(headers={"x-canary": "yes"}), Match("/next", method="GET")], new),
        Rule([Match("/api")], split, [lp.Rewrite(lp.ReplacePrefix("/v1"))]),
        Rule([Match(lp.Exact("/"))], filters=[lp.Redirect("/home")]),
        Rule(backend=old),
    ]
    return lp.Http() | lp.Rescue() | lp.Route([lp.HttpRoute(rules)])


async def main(listen: str = "127.0.0.1:8080", *upstreams: str) -> None:
    listeners = await lp.open_listeners(listen)
    print("listening on", listeners[0].address, flush=True)
    await lp.serve(proxy(*upstreams), listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
