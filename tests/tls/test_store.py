"""An authority on disk: modes, no overwriting, no half of anything, and errors that say what to do."""

import os
import re
import stat
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls import private
from linkerd_proxy.tls.audit import record_issue
from linkerd_proxy.tls.authority import Authority, utc_now
from linkerd_proxy.tls.private import create_file, read_private, replace_file
from linkerd_proxy.tls.store import create_store, key_pem, read_certificates, read_store, to_pem, write_identity


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o000, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def directory(tmp_path):
    create_store(tmp_path / "mesh", Authority.create("mesh.local"))
    return tmp_path / "mesh"


def refused(text):
    return pytest.raises(InvalidConfiguration, match=text)


def test_only_the_owner_reads_the_key_whatever_the_umask(tmp_path, umask):
    directory = tmp_path / "a" / "mesh"
    create_store(directory, Authority.create())
    assert mode(directory) == 0o700
    assert {path.name: oct(mode(path)) for path in directory.iterdir()} == {
        "ca.pem": "0o644",
        "issuer.pem": "0o644",
        "issuer.key": "0o600",
    }
    write_identity(tmp_path / "web", read_store(directory).issue("web.mesh.local"))
    assert mode(tmp_path / "web") == 0o700
    assert {path.name: oct(mode(path)) for path in (tmp_path / "web").iterdir()} == {
        "ca.pem": "0o644",
        "cert.pem": "0o644",
        "key.pem": "0o600",
    }
    record_issue(directory, "web.mesh.local", read_store(directory).certificate, how="command", now=utc_now())
    assert mode(directory / "issued.log") == 0o600


def test_what_is_read_is_what_was_written(tmp_path):
    for authority in (Authority.create("a.example"), Authority.create("b.example").subordinate()):
        directory = tmp_path / authority.trust_domain
        create_store(directory, authority)
        read = read_store(directory)
        assert (read.trust_domain, read.issuers, read.anchors) == (
            authority.trust_domain,
            authority.issuers,
            authority.anchors,
        )
        assert key_pem(read.key) == key_pem(authority.key)


@pytest.mark.parametrize("present", ["issuer.key", "issuer.pem", "ca.pem"])
def test_nothing_is_overwritten_and_nothing_left_behind(tmp_path, present):
    tmp_path.chmod(0o700)
    (tmp_path / present).write_text("precious")
    with refused(f"has the {present} of an authority already: give another directory"):
        create_store(tmp_path, Authority.create())
    assert [path.name for path in tmp_path.iterdir()] == [present]
    assert (tmp_path / present).read_text() == "precious"


def test_of_many_processes_one_makes_the_authority(tmp_path):
    program = (
        "import sys, pathlib; from linkerd_proxy.tls.authority import Authority;"
        "from linkerd_proxy.tls.store import create_store; a = Authority.create(); print(flush=True); sys.stdin.readline();"
        f"create_store(pathlib.Path({str(tmp_path / 'mesh')!r}), a)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    errors = [process.communicate()[1].decode() for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 1, 1, 1]
    assert sum("of an authority already" in text for text in errors) == 3
    read_store(tmp_path / "mesh").issue("web.mesh.local")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def failing(descriptor, data):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(data)
        return len(data)

    monkeypatch.setattr(private.os, "write", failing)
    with refused("No space left on device"):
        create_store(tmp_path / "mesh", Authority.create())
    assert list((tmp_path / "mesh").iterdir()) == []


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_may_use_is_refused_with_the_remedy(directory, bits):
    key = directory / "issuer.key"
    key.chmod(bits)
    with refused(rf"others may use {re.escape(str(key))} \(mode {bits:04o}\): run 'chmod 600 {re.escape(str(key))}'"):
        read_store(directory)
    key.chmod(0o400)
    read_store(directory)


@pytest.mark.parametrize("theirs", [".", "issuer.key"])
def test_what_belongs_to_another_user_is_refused_for_he_can_change_it(directory, monkeypatch, theirs):
    inode = (directory / theirs).stat().st_ino
    real = os.stat, os.fstat

    def owned(found):
        values = list(found)[:10]
        values[4] = 4711 if found.st_ino == inode else 0
        return os.stat_result(values)

    monkeypatch.setattr(private.os, "fstat", lambda descriptor: owned(real[1](descriptor)))
    monkeypatch.setattr(private.Path, "stat", lambda path, **_options: owned(real[0](path)))
    with refused(f"{re.escape(str((directory / theirs).resolve()))} belongs to user 4711"):
        read_store(directory)
    monkeypatch.setattr(private.os, "geteuid", lambda: 4711)
    read_store(directory)  # one's own is, and the administrator's


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777])
def test_a_directory_that_others_may_write_to_is_refused(directory, bits):
    directory.chmod(bits)
    with refused("others may write to .*: run 'chmod 700"):
        read_store(directory)
    with refused("others may write to"):
        create_store(directory, Authority.create())


def other(directory):
    return Authority.create("mesh.local")


DAMAGE = {
    "no key": (lambda d: (d / "issuer.key").unlink(), "cannot read .*issuer.key: No such file"),
    "no certificate": (lambda d: (d / "issuer.pem").unlink(), "cannot read .*issuer.pem: No such file"),
    "an empty key": (lambda d: (d / "issuer.key").write_bytes(b""), "holds no private key in PEM"),
    "an empty certificate": (lambda d: (d / "issuer.pem").write_bytes(b""), "holds no PEM certificates"),
    "broken anchors": (lambda d: (d / "ca.pem").write_text("x"), "ca.pem holds no PEM certificates"),
    "another's key": (
        lambda d: (d / "issuer.key").write_bytes(key_pem(other(d).key)),
        "is not the key of issuer.pem: put back",
    ),
    "another's anchors": (
        lambda d: (d / "ca.pem").write_bytes(to_pem(other(d).anchors)),
        "has no anchor for issuer.pem: add the root",
    ),
    "never finished": (lambda d: (d / "ca.pem").unlink(), "was never finished: empty it"),
    "no chain": (
        lambda d: (d / "issuer.pem").write_bytes((d / "issuer.pem").read_bytes() + to_pem(other(d).anchors)),
        "is no chain: put each one's issuer after it",
    ),
    "a pipe": (lambda d: ((d / "issuer.pem").unlink(), os.mkfifo(d / "issuer.pem")), "is no regular file"),
    "a directory": (lambda d: ((d / "ca.pem").unlink(), (d / "ca.pem").mkdir()), "ca.pem"),
    "much": (lambda d: (d / "ca.pem").write_bytes(bytes(1 << 21)), "is larger than 1048576 bytes"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_on_one_line(directory, damage):
    act, told = DAMAGE[damage]
    act(directory)
    with refused(told) as error:
        read_store(directory)
    assert "\n" not in str(error.value)
    assert "PRIVATE" not in str(error.value)


def test_a_leaf_can_be_no_authority(tmp_path, directory):
    made = read_store(directory).issue("spiffe://mesh.local/web")
    (directory / "issuer.pem").write_bytes(to_pem(made.chain))
    (directory / "issuer.key").write_bytes(key_pem(made.key))
    with refused("is no authority's certificate"):
        read_store(directory)


@pytest.mark.parametrize(
    ("path", "told"),
    [("missing", "cannot read"), ("file", "is no directory"), ("empty", "holds no authority: make one")],
)
def test_where_there_is_none_it_says_so(tmp_path, path, told):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir(mode=0o700)
    with refused(told):
        read_store(tmp_path / path)


def test_several_anchors_while_one_root_follows_another(directory):
    following = Authority.create("mesh.local")
    (directory / "ca.pem").write_bytes((directory / "ca.pem").read_bytes() + to_pem(following.anchors))
    read = read_store(directory)
    assert read.issue("web.mesh.local").anchors == (read.certificate, following.certificate)


def test_an_identity_is_replaced_by_a_newer_one_of_the_same_name_only(tmp_path, directory):
    authority = read_store(directory)
    for _ in range(2):
        made = authority.issue("web.mesh.local")
        write_identity(tmp_path / "web", made)
        assert read_certificates(tmp_path / "web" / "cert.pem") == made.chain
        key = load_pem_private_key((tmp_path / "web" / "key.pem").read_bytes(), None)
        assert key.public_key() == made.chain[0].public_key()
    for name in ("db.mesh.local", "spiffe://mesh.local/web"):
        with refused("holds the identity of another name: give another directory"):
            write_identity(tmp_path / "web", authority.issue(name))
    assert read_certificates(tmp_path / "web" / "cert.pem") == made.chain
    assert not [path for path in (tmp_path / "web").iterdir() if path.name.startswith(".")]


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "key.pem"
    create_file(path, b"old")
    with pytest.raises(FileExistsError):
        create_file(path, b"new")
    before = path.stat().st_ino
    replace_file(path, b"new")
    assert (read_private(path), path.stat().st_ino != before) == (b"new", True)

    def failing(source, target):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(private.os, "replace", failing)
    with pytest.raises(OSError, match="Input/output"):
        replace_file(path, b"newest")
    assert (path.read_bytes(), [one.name for one in tmp_path.iterdir()]) == (b"new", ["key.pem"])


def test_half_a_line_is_no_line(tmp_path, monkeypatch):
    leaf = Authority.create().certificate
    monkeypatch.setattr(private.os, "write", lambda _descriptor, data: len(data) // 2)  # the disk is full behind it
    with refused("nothing is issued that is not written down"):
        record_issue(tmp_path, "web.mesh.local", leaf, how="command", now=utc_now())


def test_what_cannot_be_written_down_is_told(tmp_path):
    leaf = Authority.create().certificate
    with refused("nothing is issued that is not written down"):
        record_issue(tmp_path / "missing", "web.mesh.local", leaf, how="command", now=utc_now())
