"""The states of an endpoint in a balancer, and what moves it from one to another."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["STATES", "TRANSITIONS", "Event", "State"]

State: TypeAlias = Literal["opening", "ready", "out", "probation", "probing", "leaving"]
Event: TypeAlias = Literal[
    "opened", "tripped", "waited", "taken", "passed", "failed", "abandoned", "broken", "retried", "removed"
]

STATES: tuple[State, ...] = ("opening", "ready", "out", "probation", "probing", "leaving")

TRANSITIONS: dict[tuple[State, Event], State] = {
    # Its stack is being opened, at first or again after it broke.
    ("opening", "opened"): "ready",
    ("opening", "broken"): "out",
    # It takes work until it can't be reached, or its answers are too bad.
    ("ready", "tripped"): "out",
    ("ready", "broken"): "out",
    # It takes none until the backoff is over; then one piece of work, the probe, decides.
    ("out", "waited"): "probation",
    ("out", "broken"): "out",
    ("out", "retried"): "opening",  # where its stack broke
    ("probation", "taken"): "probing",
    ("probation", "broken"): "out",
    ("probing", "passed"): "ready",
    ("probing", "failed"): "out",
    ("probing", "abandoned"): "probation",  # cancelled: it says nothing about the endpoint
    ("probing", "broken"): "out",
    # Discovery removed it: it finishes what it has, and takes nothing more.
    ("opening", "removed"): "leaving",
    ("ready", "removed"): "leaving",
    ("out", "removed"): "leaving",
    ("probation", "removed"): "leaving",
    ("probing", "removed"): "leaving",
    ("leaving", "broken"): "leaving",
}
"""All there are. What is not in the table is a bug, and raises KeyError."""
