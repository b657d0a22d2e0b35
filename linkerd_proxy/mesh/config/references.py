"""What no part of a document can tell by itself: whether names lead anywhere, and whether parts go together.

All of this reads the document as it was written, so that it finds its problems beside those of other parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from linkerd_proxy.document.tree import Node, Problem

__all__ = ["addresses", "entries", "reference_problems", "unused_backends", "walk"]


_LEADING = frozenset({"first_available", "dst_overrides"})
"""The keys by which backends lead to other backends."""
_REFERENCES = _LEADING | {"backend_refs", "backend_ref"}


def walk(node: Node, path: str = "") -> Iterator[tuple[str, str, Node]]:
    """Yield every value with its path and the key that it stands under."""
    pending = [("", path, node)]
    while pending:
        key, where, one = pending.pop()
        yield key, where, one
        if isinstance(one.value, dict):
            children = [(name, f"{where}.{name}" if where else name, child) for name, child in one.value.items()]
        elif isinstance(one.value, list):
            children = [(key, f"{where}[{index}]", child) for index, child in enumerate(one.value)]
        else:
            continue
        pending.extend(reversed(children))


def reference_problems(root: Node) -> list[Problem]:
    """Return what is wrong between the parts of a document."""
    backends = entries(root, "backends")
    problems = [
        Problem(line, path, f"there is no backend {name!r}{_remedy(name, list(backends))}")
        for path, line, name in _references(root)
        if name not in backends
    ]
    problems += _circles(root, backends)
    problems += _doubled_listeners(root)
    problems += _doubled_retries(root, backends)
    problems += _missing_identity(root, backends)
    return problems


def unused_backends(root: Node) -> list[Problem]:
    """Return the backends that nothing refers to."""
    used = {name for _, _, name in _references(root)}
    backends = root.value.get("backends") if isinstance(root.value, dict) else None
    lines = {} if backends is None else backends.key_lines
    return [
        Problem(lines.get(name, node.line), f"backends.{name}", "nothing refers to it: use it, or remove it")
        for name, node in entries(root, "backends").items()
        if name not in used
    ]


def entries(root: Node, key: str) -> dict[str, Node]:
    """Return what stands under a key of the document, by its own keys; nothing if that is no mapping."""
    found = root.value.get(key) if isinstance(root.value, dict) else None
    return found.value if found is not None and isinstance(found.value, dict) else {}


def addresses(root: Node) -> Iterator[tuple[str, Node]]:
    """Yield where a document says to listen, and the path of that."""
    keys = root.value if isinstance(root.value, dict) else {}
    places = [(f"listeners.{name}", listener) for name, listener in entries(root, "listeners").items()]
    places += [(key, keys[key]) for key in ("admin", "tap_server") if key in keys]
    for path, node in places:
        inside = node.value.get("address") if isinstance(node.value, dict) else None
        found, where = (inside, f"{path}.address") if inside is not None else (node, path)
        if isinstance(found.value, str | int) and not isinstance(found.value, bool):
            yield where, found


def _references(node: Node, path: str = "") -> Iterator[tuple[str, int, str]]:
    """Yield where a backend is named, and the name."""
    for key, where, one in walk(node, path):
        if key not in _REFERENCES:
            continue
        if isinstance(one.value, str):
            yield where, one.line, one.value
        elif (
            isinstance(one.value, dict) and (name := one.value.get("name")) is not None and isinstance(name.value, str)
        ):
            yield f"{where}.name", name.line, name.value


def _remedy(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f": the backends are {', '.join(known)}" if known else ": add it to backends"


def _doubled_listeners(root: Node) -> Iterator[Problem]:
    """Find listeners with one address, the proxy's own among them; port 0 is another one each time."""
    seen: dict[str, str] = {}
    for path, address in addresses(root):
        text = str(address.value)
        if text in seen and not text.endswith(":0"):
            problem = f"{seen[text]} listens on {text} already: give another port, or merge the two"
            yield Problem(address.line, path, problem)
        seen.setdefault(text, path.removesuffix(".address"))


def _circles(root: Node, backends: dict[str, Node]) -> Iterator[Problem]:
    """Find backends that lead back to themselves. A profile may name its own service among its overrides."""
    leads: dict[str, dict[str, tuple[str, int]]] = {}
    for name, node in backends.items():
        leads[name] = {
            other: (path, line)
            for path, line, other in _references(node, f"backends.{name}")
            if other != name or ".dst_overrides" not in path
        }
    told: set[str] = set()
    for name in backends:
        circle = _way_back(name, leads)
        if circle and told.isdisjoint(circle):  # to take one out may take both
            told.update(circle)
            path, line = leads[name][circle[1]]
            yield Problem(line, path, f"the backends lead round in a circle, {' to '.join(circle)}: take one out")


def _way_back(name: str, leads: dict[str, dict[str, tuple[str, int]]]) -> list[str]:
    """Return the backends from one back to itself, or nothing."""
    pending = [[name, other] for other in leads[name]]
    seen: set[str] = set()
    while pending:
        way = pending.pop()
        if way[-1] == name:
            return way
        if way[-1] not in seen:
            seen.add(way[-1])
            pending += [[*way, other] for other in leads.get(way[-1], ())]
    return []


def _doubled_retries(root: Node, backends: dict[str, Node]) -> Iterator[Problem]:
    """Find rules that retry what the backend retries too: three tries of three are nine."""
    retrying = {name for name, node in backends.items() if _retries(node)}
    for _, path, node in walk(root):
        if not isinstance(node.value, dict) or not {"retry", "backend_refs"} <= node.value.keys():
            continue
        both = [name for _, _, name in _references(Node({"backend_refs": node.value["backend_refs"]}, 0))]
        for name in sorted(retrying.intersection(both)):
            line = node.key_lines.get("retry", node.line)
            yield Problem(
                line, f"{path}.retry", f"backend {name!r} has a retry of its own, and they multiply: keep one of them"
            )


def _retries(backend: Node) -> bool:
    if not isinstance(backend.value, dict):
        return False
    profile = backend.value.get("profile")
    return "retry" in backend.value or any(
        key == "is_retryable" and node.value is True for key, _, node in (walk(profile) if profile is not None else ())
    )


def _missing_identity(root: Node, backends: dict[str, Node]) -> Iterator[Problem]:
    """Find what takes an identity where there is none."""
    if not isinstance(root.value, dict) or "identity" in root.value:
        return
    remedy = "give the proxy one under the key identity"
    for name, entry in entries(root, "listeners").items():
        tls = entry.value.get("tls") if isinstance(entry.value, dict) else None
        if tls is not None and isinstance(tls.value, dict) and "certificate" not in tls.value:
            text = f"TLS without a certificate ends by the proxy's identity, and it has none: {remedy}"
            yield Problem(tls.line, f"listeners.{name}.tls", text)
    for name, entry in backends.items():
        for key, path, node in walk(entry, f"backends.{name}"):
            if key == "identity" and isinstance(node.value, str):
                text = f"{node.value} wants to know who connects, and the proxy has no identity: {remedy}"
                yield Problem(node.line, path, text)
        peers = entry.value.get("peers") if isinstance(entry.value, dict) else None
        for where, peer in peers.value.items() if peers is not None and isinstance(peers.value, dict) else ():
            if isinstance(peer.value, str):
                text = f"{peer.value} wants to know who connects, and the proxy has no identity: {remedy}"
                yield Problem(peer.line, f"backends.{name}.peers.{where}", text)
    tap = root.value.get("tap_server")
    if tap is not None:
        yield Problem(tap.line, "tap_server", f"the tap takes mutual TLS, and the proxy has no identity: {remedy}")
