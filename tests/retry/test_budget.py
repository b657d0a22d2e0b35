"""The retry budget: what it lets through, and what it forgets."""

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.retry import Account, Budget


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"retry_ratio": -1}, "retry_ratio"),
        ({"retry_ratio": 10000}, "retry_ratio"),
        ({"retry_ratio": float("nan")}, "retry_ratio"),
        ({"min_retries_per_second": -1}, "min_retries_per_second"),
        ({"min_retries_per_second": 2**31}, "min_retries_per_second"),
        ({"ttl": 0.5}, "ttl"),
        ({"ttl": 1000}, "ttl"),
    ],
)
def test_what_linkerd_refuses_is_refused(values, name):
    with pytest.raises(InvalidConfiguration, match=rf"Budget\({name}="):
        Budget(**values)


async def test_the_reserve_needs_no_requests(autojump_clock):
    account = Account(Budget(0.2, 1, ttl=10))
    assert [account.withdraw() for _ in range(11)] == [True] * 10 + [False]
    await trio.sleep(9)
    assert not account.withdraw()
    await trio.sleep(2)
    assert account.balance == 10


async def test_requests_pay_in_their_share(autojump_clock):
    account = Account(Budget(0.2, 0))
    for _ in range(9):
        account.deposit(trio.current_time())
    assert account.withdraw()
    assert not account.withdraw()
    account.deposit(trio.current_time())
    assert account.withdraw()  # ten times 0.2 is two, whatever floats say
    assert repr(account).startswith("<Account with 0.0 retries of Budget(")


async def test_what_was_paid_in_expires(autojump_clock):
    account = Account(Budget(1, 0, ttl=10))
    account.deposit(trio.current_time())
    await trio.sleep(5)
    account.deposit(trio.current_time())
    assert account.balance == 2
    await trio.sleep(6)
    assert account.balance == 1
    await trio.sleep(100)
    assert account.balance == 0


class _Clock:
    def __init__(self):
        self.now = 1000.0


class BudgetMachine(RuleBasedStateMachine):
    """A budget beside a naive one, which remembers every event with its time."""

    ratio, per_second, ttl = 0.25, 0.5, 10.0

    def __init__(self):
        super().__init__()
        self.clock = _Clock()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr("linkerd_proxy.retry.budget.trio.current_time", lambda: self.clock.now)
        self.account = Account(Budget(self.ratio, self.per_second, self.ttl))
        self.events = []

    def teardown(self):
        self._patch.undo()

    @rule(seconds=st.one_of(st.floats(0, 25), st.sampled_from([0.5, 1.0, 1.0000001, 10.0])))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule(times=st.integers(1, 20))
    def deposit(self, times):
        for _ in range(times):
            self.account.deposit(trio.current_time())
            self.events.append((self.clock.now, self.ratio))

    @rule(times=st.integers(1, 10))
    def withdraw(self, times):
        for _ in range(times):
            before = self.account.balance
            if self.account.withdraw():
                assert before >= 1
                self.events.append((self.clock.now, -1))
            else:
                assert before < 1

    @invariant()
    def is_between_the_windows_that_its_steps_allow(self):
        # Events count for one ttl, give or take the step in which they happened: of those in doubt, deposits may be
        # gone (the least that there can be) and withdrawals too (the most).
        now, reserve, step = self.clock.now, self.per_second * self.ttl, self.ttl / 10
        sure = [value for when, value in self.events if now - when < self.ttl - 2 * step]
        doubt = [value for when, value in self.events if self.ttl - 2 * step <= now - when <= self.ttl + 2 * step]
        least = reserve + sum(sure) + sum(value for value in doubt if value < 0)
        most = reserve + sum(sure) + sum(value for value in doubt if value > 0)
        assert least - 1e-6 <= self.account.balance <= max(most, 0) + 1e-6

    @invariant()
    def retries_of_a_window_never_exceed_what_it_may_have(self):
        now = self.clock.now
        recent = [value for when, value in self.events if now - when < self.ttl - self.ttl / 10]
        paid_in = sum(value for when, value in self.events if value > 0 and now - when < 2 * self.ttl)
        assert -sum(value for value in recent if value < 0) <= self.per_second * self.ttl + paid_in + 1e-6


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Dice:
    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


def test_backoff_doubles_up_to_its_most():
    backoff = Backoff(0.025, 0.25, 1.0)
    assert [backoff.seconds(n, Dice(0.0)) for n in (1, 2, 3, 4, 5, 10_000)] == [0.025, 0.05, 0.1, 0.2, 0.25, 0.25]
    assert backoff.seconds(5, Dice(0.5)) == pytest.approx(0.375)


@pytest.mark.parametrize("values", [(-1, 1), (2, 1), (0, float("inf")), (0, 1, -1), (0, 1, 101)])
def test_backoffs_that_can_not_be_meant_are_refused(values):
    with pytest.raises(InvalidConfiguration):
        Backoff(*values)
