"""Frame by frame: what a client may do, and what becomes of one that does something else."""

import pytest

from linkerd_proxy.http.limits import Limits
from tests.http.h2 import cases_frames, cases_messages
from tests.http.h2.peer import served

CASES = cases_frames.CASES + cases_messages.CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_case(case, autojump_clock):
    async with served(limits=Limits(**case.limits), hello=case.hello) as peer:
        await peer.send(*case.frames)
        await case.expect.check(peer)


def test_there_are_enough_cases_and_each_once():
    assert len(CASES) >= 140
    assert len({case.id for case in CASES}) == len(CASES)
