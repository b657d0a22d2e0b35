"""``python -m linkerd_proxy``: the same as ``linkerd-proxy``."""

import sys

from linkerd_proxy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
