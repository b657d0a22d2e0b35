"""How much memory something takes at most."""

import tracemalloc
from contextlib import contextmanager


@contextmanager
def traced():
    """Yield what tells the most memory that was taken inside the block, whether or not the whole run is traced."""
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    found = 0
    try:
        yield lambda: found
    finally:
        found = tracemalloc.get_traced_memory()[1] - before
        if not already:
            tracemalloc.stop()
