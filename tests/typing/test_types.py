"""The types of a pipeline: mypy accepts what would work and refuses what would not."""

import re
from pathlib import Path

import pytest
from mypy import api

HERE = Path(__file__).parent
_ERROR = re.compile(r"^[^:]*(?P<file>\w+\.py):(?P<line>\d+): error: .*\[(?P<code>[\w-]+)\]$")
_MARK = re.compile(r"#\s*E:\s*(?P<codes>[\w, -]+)$")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, set[str]]]:
    cache = tmp_path_factory.mktemp("mypy")
    files = [str(HERE / "accepted.py"), str(HERE / "refused.py")]
    out, err, _ = api.run([*files, "--strict", "--config-file=", f"--cache-dir={cache}", "--no-error-summary", "--no-pretty",
                           "--follow-imports=silent", "--ignore-missing-imports", "--hide-error-context"])  # fmt: skip
    assert not err, err
    errors: dict[str, dict[int, set[str]]] = {}
    for line in out.splitlines():
        if match := _ERROR.match(line):
            errors.setdefault(Path(line.partition(":")[0]).name, {}).setdefault(int(match["line"]), set()).add(
                match["code"]
            )
    return errors


def test_right_orders_are_accepted(found: dict[str, dict[int, set[str]]]) -> None:
    assert found.get("accepted.py", {}) == {}


def test_wrong_orders_are_refused(found: dict[str, dict[int, set[str]]]) -> None:
    expected = {
        number: {code.strip() for code in match["codes"].split(",")}
        for number, line in enumerate((HERE / "refused.py").read_text().splitlines(), 1)
        if (match := _MARK.search(line))
    }
    assert len(expected) >= 14
    assert found["refused.py"] == expected
