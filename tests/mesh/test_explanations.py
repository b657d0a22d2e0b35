"""Every failure code is explained: its cause, where to look, and what to do."""

import pytest

from linkerd_proxy.cli.main import main
from linkerd_proxy.errors import CODES
from linkerd_proxy.mesh.explanations import EXPLANATIONS, OTHERS, meaning


def test_no_code_is_missing_and_none_is_invented():
    assert set(EXPLANATIONS) == {*CODES, *OTHERS}


@pytest.mark.parametrize("code", EXPLANATIONS)
def test_each_says_three_things_in_sentences(code):
    explanation = EXPLANATIONS[code]
    for text in (explanation.cause, explanation.look, explanation.remedy):
        assert len(text) >= 15
        assert text.endswith((".", "?"))
        assert "  " not in text
    assert meaning(code).endswith(".")
    assert explanation.cause != meaning(code)


@pytest.mark.parametrize("code", EXPLANATIONS)
def test_the_command_prints_them(code, capsys):
    assert main(["explain", code]) == 0
    out = capsys.readouterr().out
    said = " ".join(out.split())
    for text in (EXPLANATIONS[code].cause, EXPLANATIONS[code].look, EXPLANATIONS[code].remedy):
        assert text in said
    assert max(map(len, out.splitlines()[1:])) <= 100
