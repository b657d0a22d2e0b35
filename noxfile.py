"""The project's chores: ``nox`` runs the first four sessions, ``nox -s bench`` one of the others."""

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests", "lint", "types", "docs"]

PYPROJECT = nox.project.load_toml("pyproject.toml")


def group(session: nox.Session, *names: str) -> None:
    session.install(*nox.project.dependency_groups(PYPROJECT, *names))


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    group(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    group(session, "lint")
    session.run("mypy")
    session.run("mypy", "--strict", "examples")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "linkerd_proxy", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    group(session, "docs")
    session.run("sphinx-build", "-n", "-W", "--keep-going", "docs", "docs/_build")


@nox.session
def bench(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    group(session, "bench")
    session.run("python", "-m", "venv", ".nox/mitmproxy")
    peers = nox.project.dependency_groups(PYPROJECT, "bench-mitmproxy")
    session.run(".nox/mitmproxy/bin/pip", "install", "--quiet", *peers, external=True)
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "tests/fuzz", *session.posargs)
