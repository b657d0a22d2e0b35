"""How tests wait: by the clock that jumps, or as long as it takes. A short limit by the real clock fails on a busy machine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = [path for path in sorted(HERE.rglob("*.py")) if path.relative_to(HERE).parts[0] not in {"bench", "fuzz"}]
CLOCKS = {"autojump_clock", "mock_clock"}
LIMITS = {"trio.fail_after", "trio.move_on_after"}
SHORT = {  # what is cut short on purpose, so that nothing is lost when it comes sooner
    "test_cancellation_at_each_wait_leaves_the_stream_usable"
}


def _real_waits(node: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls in a test, or a function of its module, whose time is not the test's own."""
    for inner in ast.iter_child_nodes(node):
        name = function
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            if CLOCKS & {argument.arg for argument in inner.args.args}:
                continue
            name = function or inner.name
        if isinstance(inner, ast.Call):
            yield name, inner
        yield from _real_waits(inner, name)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(HERE)))
def test_limits_by_the_real_clock_are_for_hangs_only(path: Path) -> None:
    for function, call in _real_waits(ast.parse(path.read_text())):
        called = ast.unparse(call.func)
        number = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
        if (
            function not in SHORT
            and number is not None
            and (function.startswith("test_") or called == "trio.fail_after")
        ):
            where = f"{path.name}: line {call.lineno}, {function}"
            assert called not in LIMITS, f"{where}: give it PATIENCE, or take autojump_clock"
            assert called != "trio.sleep" or number == 0, f"{where}: wait for what comes, or take autojump_clock"
