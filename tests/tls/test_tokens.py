"""A token gets one certificate of one name, once, soon."""

import hashlib
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.tokens import RefusedToken, Tokens

NAME = "web.mesh.local"


class Clock:
    now = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tokens(tmp_path, clock):
    return Tokens(tmp_path / "tokens", now=clock)


def refused(text):
    return pytest.raises(RefusedToken, match=text)


def test_it_is_used_once(tokens):
    token = tokens.make(NAME)
    tokens.check(token, NAME)
    tokens.use(token, NAME)
    for act in (tokens.check, tokens.use):
        with refused("is unknown, or was used: make a new one"):
            act(token, NAME)


def test_nothing_but_its_hash_is_kept_where_only_the_owner_looks(tokens):
    token = tokens.make(NAME)
    (file,) = tokens.directory.iterdir()
    assert file.name == hashlib.sha256(token.encode()).hexdigest()
    assert token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(tokens.directory.stat().st_mode) == 0o700
    assert token not in repr(tokens)


def test_two_are_never_alike_and_each_has_256_bits(tokens):
    made = {tokens.make(NAME) for _ in range(50)}
    assert len(made) == 50
    assert {len(token) for token in made} == {43}  # base64 of 32 bytes
    assert len(tokens.outstanding()) == 50


def test_for_another_name_it_is_worth_nothing_and_stays_good_for_its_own(tokens):
    token = tokens.make(NAME)
    with refused("is not for db.mesh.local") as error:
        tokens.use(token, "db.mesh.local")
    assert NAME not in str(error.value)
    tokens.use(token, NAME)


def test_it_expires(tokens, clock):
    token, longer = tokens.make(NAME), tokens.make(NAME, lifetime=7200)
    assert [until for _, until in tokens.outstanding()] == [clock.now + timedelta(hours=h) for h in (1, 2)]
    clock.now += timedelta(seconds=3600)
    with refused("has expired: make a new one"):
        tokens.use(token, NAME)
    assert tokens.outstanding() == [(NAME, clock.now + timedelta(hours=1))]
    tokens.purge()
    assert len(list(tokens.directory.iterdir())) == 1
    tokens.use(longer, NAME)


def test_making_one_removes_the_expired(tokens, clock):
    for _ in range(3):
        tokens.make(NAME)
    clock.now += timedelta(days=1)
    tokens.make(NAME)
    assert len(list(tokens.directory.iterdir())) == 1


@pytest.mark.parametrize("token", ["", "guess", "../../etc/passwd", "\0", "a" * 10_000, "\ud800", "ü"])
def test_what_is_no_token_is_refused(tokens, token):
    tokens.make(NAME)
    with refused("is unknown"):
        tokens.use(token, NAME)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"name": 1}', b'{"name": "x", "expires": "soon"}', b"\xff",
                                     b'{"name": "x", "expires": 1e999}'])  # fmt: skip
def test_a_broken_file_is_worth_nothing(tokens, content):
    token = tokens.make(NAME)
    (file,) = tokens.directory.iterdir()
    file.write_bytes(content)
    with refused("is unknown"):
        tokens.use(token, NAME)
    assert tokens.outstanding() == []


@pytest.mark.parametrize("lifetime", [0, -1, float("nan"), 400 * 86400])
def test_a_lifetime_must_be_one(tokens, lifetime):
    with pytest.raises(InvalidConfiguration, match="give 1 s to 365 d"):
        tokens.make(NAME, lifetime=lifetime)


USE = """
import pathlib, sys
from linkerd_proxy.tls.tokens import Tokens, RefusedToken
tokens = Tokens(pathlib.Path(sys.argv[1]))
print(flush=True)
sys.stdin.readline()
won = 0
for token in sys.argv[2:]:
    try:
        tokens.use(token, "web.mesh.local")
        won += 1
    except RefusedToken:
        pass
print(won)
"""


def test_of_many_processes_one_uses_it(tmp_path):
    tokens = Tokens(tmp_path / "tokens")
    made = [tokens.make(NAME) for _ in range(100)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", USE, str(tokens.directory), *made], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    won = [int(process.communicate()[0]) for process in processes]
    assert sum(won) == 100, won
    assert [process.returncode for process in processes] == [0] * 4


def test_of_two_who_checked_one_uses_it(tokens, monkeypatch):
    token = tokens.make(NAME)
    check = Tokens.check

    def slow(self, token, name):
        check(self, token, name)
        monkeypatch.setattr(Tokens, "check", check)
        tokens.use(token, name)  # the other one comes in between

    monkeypatch.setattr(Tokens, "check", slow)
    with refused("the token was used"):
        tokens.use(token, NAME)
