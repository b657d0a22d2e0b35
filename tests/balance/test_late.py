"""What a deadline outside of a balancer says about the endpoint that let it pass."""

import pytest

from linkerd_proxy.balance.statistics import current_balancers
from linkerd_proxy.core.stack import opened
from linkerd_proxy.errors import ResponseTimeout
from linkerd_proxy.retry.timeout import Timeout
from tests.balance.origins import Fleet, ask, takes
from tests.balance.test_ejection import balance


async def test_the_deadline_of_a_layer_outside_puts_an_endpoint_out(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = takes(60)
    async with opened(Timeout(1) | balance(fleet)) as service:
        (balancer,) = current_balancers()
        for _ in range(3):
            with pytest.raises(ResponseTimeout):
                await ask(service)
        assert [endpoint.state for endpoint in balancer.statistics().endpoints] == ["out"]
