"""CPU time of this proxy against Envoy, HAProxy, nginx and mitmproxy: ``python -m tests.bench --help``."""
