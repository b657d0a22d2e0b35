"""Bytes that are nearly right: more telling than random ones."""

import random

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


def pieces(*seeds: bytes) -> SearchStrategy[bytes]:
    """Any sequence of the seeds and of random bytes."""
    return st.lists(st.one_of(st.sampled_from(seeds), st.binary(max_size=6)), max_size=24).map(b"".join)


def damaged(*seeds: bytes) -> SearchStrategy[bytes]:
    """One of the seeds with some bytes changed, cut out, doubled or put in."""
    return st.tuples(st.sampled_from(seeds), st.integers(0, 2**32), st.integers(0, 8)).map(lambda t: _damage(*t))


def _damage(data: bytes, seed: int, times: int) -> bytes:
    rng = random.Random(seed)
    work = bytearray(data)
    for _ in range(times):
        at = rng.randrange(len(work) + 1)
        size = rng.choice((1, 1, 2, 4, 16))
        match rng.randrange(5):
            case 0:
                work[at : at + size] = rng.randbytes(size)
            case 1:
                del work[at : at + size]
            case 2:
                work[at:at] = work[at : at + size]
            case 3:
                work[at:at] = rng.choice((b"\r\n", b"\n", b" ", b":", b"\0", b"\xff", b"\t", b"%00", b"," * size))
            case _:
                if at < len(work):
                    work[at] ^= 1 << rng.randrange(8)
    return bytes(work)


def splits(data: bytes, seed: int) -> list[bytes]:
    """Cut data into pieces, none of them empty."""
    rng = random.Random(seed)
    result = []
    while data:
        size = rng.choice((1, 1, 2, 5, 64, 4096))
        result.append(data[:size])
        data = data[size:]
    return result
