"""The documentation names only what is there, and its code is real."""

import ast
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import click
import pytest

from linkerd_proxy.cli.main import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.rst") if "_build" not in page.parts)
FRAGMENTS = sorted(file for file in (ROOT / "changes").iterdir() if file.name != "README.md")


def name_of(page):
    return str(page.relative_to(ROOT))


def python_blocks(page):
    """Yield the Python code blocks of a page."""
    pattern = r"^( *)\.\. code-block:: python\n((?:\1   .*\n|\s*\n)+)"
    for _, body in re.findall(pattern, page.read_text() + "\n", re.MULTILINE):
        yield textwrap.dedent(re.sub(r"^ +:.*\n", "", body.lstrip("\n")))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_compile(page):
    for block in python_blocks(page):
        compile(block, name_of(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_imports_in_blocks_are_there(page):
    for block in python_blocks(page):
        imports = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec("\n".join(map(ast.unparse, imports)), {})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_included_files_are_there(page):
    for included in re.findall(r"^\.\. (?:literalinclude|drawn|include):: (\S+)", page.read_text(), re.MULTILINE):
        assert (page.parent / included).resolve().is_file(), included


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_highlighted_lines_are_there(page):
    text = page.read_text()
    for included, last in re.findall(r"literalinclude:: (\S+)\n(?: +:.*\n)*? +:emphasize-lines: .*?(\d+)\n", text):
        assert int(last) <= len((page.parent / included).read_text().splitlines())


def test_the_parts_of_the_log_are_those_that_write_to_it():
    sources = [path.read_text() for path in (ROOT / "linkerd_proxy").rglob("*.py")]
    made = {name for source in sources for name in re.findall(r'getLogger\("linkerd_proxy\.(\w+)"\)', source)}
    page = (DOCS / "how-to" / "look-inside.rst").read_text()
    listed = page[page.index("The parts are ") : page.index("comes from ``linkerd_proxy`` itself")]
    assert set(re.findall(r"``(\w+)``", listed)) - {"debug"} == made
    for text in (*sources, *(page.read_text() for page in PAGES)):
        for named in re.findall(r"linkerd_proxy\.(\w+)=(?:debug|info|warn)", text):
            assert named in made


def test_every_page_is_in_a_contents_table():
    listed = {DOCS / "index.rst"}
    for page in PAGES:
        for body in re.findall(r"\.\. toctree::\n((?:   .*\n|\n)+)", page.read_text() + "\n"):
            for entry in re.findall(r"^   ([a-z][\w/*-]*)$", body, re.MULTILINE):
                listed |= set(page.parent.glob(f"{entry}.rst"))
    assert [name_of(page) for page in PAGES if page not in listed] == []


def test_pages_are_short():
    assert [name_of(page) for page in PAGES if len(page.read_text().splitlines()) > 200] == []


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda file: file.name)
def test_a_fragment_is_one_sentence_to_a_user(fragment):
    kinds = {
        kind["directory"] for kind in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
    }
    assert re.fullmatch(rf"(\+[\w-]+|\d+)\.({'|'.join(kinds)})\.md", fragment.name)
    text = fragment.read_text().strip()
    assert re.fullmatch(r"[A-Z`].*[.]", text)
    assert "\n" not in text
    assert len(re.findall(r"[.] [A-Z]", text)) == 0


def test_the_chores_are_all_there_and_short():
    chores = (ROOT / "noxfile.py").read_text()
    assert len(chores.splitlines()) <= 60
    sessions = re.findall(r"@nox\.session.*\ndef (\w+)", chores)
    assert sessions == ["tests", "lint", "types", "docs", "bench", "fuzz"]


def test_all_is_enough_for_the_demo():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (everything,) = project["optional-dependencies"]["all"]
    extras = set(re.fullmatch(r"linkerd-proxy\[([\w,-]+)\]", everything)[1].split(","))
    assert extras == set(project["optional-dependencies"]) - {"all", "test"}


def commands_shown():
    """Yield every command line that a page shows."""
    for page in PAGES:
        for line in re.findall(r"^ +\$ (?:\S*/)?(linkerd-proxy .+)$", page.read_text(), re.MULTILINE):
            yield pytest.param(line, id=f"{page.stem}: {line}")


@pytest.mark.parametrize("line", list(commands_shown()))
def test_options_shown_exist(line):
    words = line.partition(" #")[0].split()[1:]
    name, command = [], cli
    for word in words:  # a group's commands have options of their own
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        name, command = [*name, word], command.commands.get(word)
    shown = subprocess.run(
        [sys.executable, "-m", "linkerd_proxy", *name, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert [w.partition("=")[0] for w in words if w.startswith("--") and w.partition("=")[0] not in shown] == []


def test_every_dependency_is_justified():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [project["build-system"]["requires"], project["project"]["dependencies"]]
    groups += [*project["project"]["optional-dependencies"].values(), *project["dependency-groups"].values()]
    wanted = {re.split(r"[\[<>=;~! ]", one)[0].lower() for group in groups for one in group if isinstance(one, str)}
    text = (DOCS / "explanation" / "dependencies.rst").read_text().lower()
    for name in wanted - {"linkerd-proxy"}:
        assert re.search(rf"\b{re.escape(name)}\b", text), name
