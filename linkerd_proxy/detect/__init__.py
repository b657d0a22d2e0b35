"""Finding out what a connection speaks, from its first bytes."""

from linkerd_proxy.detect.detect import OPAQUE_PORTS, Detect

__all__ = ["OPAQUE_PORTS", "Detect"]
