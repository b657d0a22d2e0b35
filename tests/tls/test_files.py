"""An identity in files: read at the start, read anew when they change, kept when they are bad."""

import logging
import os

import pytest
import trio

from linkerd_proxy import Files, InvalidConfiguration
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.tls.stored import stamp_of
from tests.tls.conftest import API, DAY, NOW, WEB, issuer_pem, make_issuer

SECOND = DAY / 86400


def write(directory, issuer, leaf):
    chain, key = leaf.pem
    directory.mkdir(exist_ok=True)
    (directory / "cert.pem").write_bytes(chain)
    (directory / "key.pem").write_bytes(key)
    (directory / "ca.pem").write_bytes(issuer_pem(issuer))
    return directory


def put(make, path):
    path.unlink()
    make(path)


def refreshes(result):
    return current_registry().counter("control_identity_cert_refreshes_total", "", result=result).value


async def test_reads_whom_it_is_from_the_certificate(issuer, tmp_path):
    async with Files(write(tmp_path, issuer, issuer.issue(WEB))).open() as live:
        assert live.name == WEB
        assert live.require().anchors == (issuer.certificate,)
        assert live.is_valid(NOW)
        assert not live.is_valid(NOW + 2 * DAY)
        assert "PRIVATE" not in repr(live)


async def test_files_may_be_elsewhere(issuer, tmp_path):
    write(tmp_path, issuer, issuer.issue(WEB))
    (tmp_path / "cert.pem").rename(tmp_path / "tls.crt")
    (tmp_path / "key.pem").rename(tmp_path / "tls.key")
    async with Files(tmp_path, "tls.crt", tmp_path / "tls.key").open() as live:
        assert live.name == WEB


async def test_a_changed_file_is_read_once_it_was_left_alone(issuer, tmp_path, autojump_clock):
    async with Files(write(tmp_path, issuer, issuer.issue(WEB))).open() as live:
        first = live.require()
        renewed = issuer.issue(WEB)
        (tmp_path / "cert.pem").write_bytes(renewed.pem[0])
        await trio.sleep(1.5)
        assert live.require() is first  # the key may still be on its way
        (tmp_path / "key.pem").write_bytes(renewed.pem[1])
        with trio.fail_after(3):
            await live.wait_changed()
        assert live.require().chain == (renewed.certificate,)
    assert refreshes("ok") == 2
    assert refreshes("error") == 0


async def test_swapped_links_of_a_mounted_secret_are_seen(issuer, tmp_path, autojump_clock):
    write(tmp_path / "one", issuer, issuer.issue(WEB))
    renewed = issuer.issue(WEB)
    write(tmp_path / "two", issuer, renewed)
    mounted = tmp_path / "mounted"
    mounted.symlink_to("one")
    async with Files(mounted).open() as live:
        (tmp_path / "new").symlink_to("two")
        os.replace(tmp_path / "new", mounted)
        with trio.fail_after(3):
            await live.wait_changed()
        assert live.require().chain == (renewed.certificate,)


async def test_a_certificate_that_becomes_valid_later_is_taken_then(issuer, tmp_path, autojump_clock, caplog):
    caplog.set_level(logging.WARNING, logger="linkerd_proxy")
    start = NOW - trio.current_time() * SECOND
    write(tmp_path, issuer, issuer.issue(WEB))
    async with Files(tmp_path, now=lambda: start + trio.current_time() * SECOND).open() as live:
        ahead = issuer.issue(WEB, valid=(NOW + 30 * SECOND, NOW + DAY))  # by a host whose clock is 30 s ahead
        write(tmp_path, issuer, ahead)
        await trio.sleep(20)
        assert live.require().chain != (ahead.certificate,)
        with trio.fail_after(100):
            await live.wait_changed()
        assert live.require().chain == (ahead.certificate,)
    assert len(caplog.messages) == 1


def test_a_file_whose_permissions_are_corrected_is_another(issuer, tmp_path):
    write(tmp_path, issuer, issuer.issue(WEB))
    before = stamp_of(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o400)
    assert stamp_of(tmp_path / "key.pem") != before


@pytest.mark.parametrize("damage", ["half a file", "another key", "no file", "another name", "another authority"])
async def test_a_bad_change_changes_nothing_and_is_one_line(issuer, tmp_path, autojump_clock, caplog, damage):
    caplog.set_level(logging.WARNING, logger="linkerd_proxy")
    write(tmp_path, issuer, issuer.issue(WEB))
    async with Files(tmp_path).open() as live:
        first = live.require()
        if damage == "half a file":
            (tmp_path / "cert.pem").write_bytes(issuer.issue(WEB).pem[0][:200])
        elif damage == "another key":
            (tmp_path / "key.pem").write_bytes(issuer.issue(WEB).pem[1])
        elif damage == "no file":
            (tmp_path / "ca.pem").unlink()
        elif damage == "another name":
            write(tmp_path, issuer, issuer.issue(API))
        else:
            (tmp_path / "ca.pem").write_bytes(issuer_pem(make_issuer("somebody else")))
        await trio.sleep(10)
        assert live.require() is first
        (line,) = caplog.messages
        assert str(tmp_path) in line
        assert "the present one is good until" in line
        assert "PRIVATE" not in line
        good = issuer.issue(WEB)
        write(tmp_path, issuer, good)
        with trio.fail_after(3):
            await live.wait_changed()
        assert live.require().chain == (good.certificate,)
    assert refreshes("error") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, i: (d / "key.pem").unlink(), "key.pem: No such file .*; .* authority issue"),
        (lambda d, i: put(os.mkfifo, d / "key.pem"), "key.pem is no regular file: give one; .* authority issue"),
        (lambda d, i: (d / "cert.pem").write_bytes(b""), "cert.pem: no certificate can be read; give"),
        (lambda d, i: (d / "ca.pem").write_bytes(b"nonsense"), "ca.pem: no certificate can be read; give"),
        (lambda d, i: (d / "key.pem").write_bytes(b"nonsense"), "key.pem: no key can be read; give"),
        (lambda d, i: (d / "key.pem").write_bytes(i.issue(WEB).pem[1]), "cert.pem: .* another key; have it issued"),
        (lambda d, i: write(d, i, i.issue(WEB, API)), "cert.pem: the certificate has several names .*; issue it for"),
        (lambda d, i: write(d, i, i.issue(WEB, valid=(NOW - 2 * DAY, NOW - DAY))), "cert.pem: .* valid from .*issued anew"),
        (lambda d, i: write(d, make_issuer("other"), i.issue(WEB)), "cert.pem: .* trust anchor.*issued anew"),
    ],
)  # fmt: skip
async def test_at_the_start_bad_files_are_told_with_the_remedy(issuer, tmp_path, change, message):
    write(tmp_path, issuer, issuer.issue(WEB))
    change(tmp_path, issuer)
    with pytest.raises(InvalidConfiguration, match=message):
        async with Files(tmp_path).open():
            pass


def test_a_bad_interval_is_refused(tmp_path):
    with pytest.raises(InvalidConfiguration):
        Files(tmp_path, interval=0)
