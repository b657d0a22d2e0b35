import signal
import sys

import pytest

from linkerd_proxy.io.dial import dial
from tests.ports import held_port

PROXY = ("exec", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--to", "127.0.0.1:9")


def python(code, *proxy):
    return (*(proxy or PROXY), "--", sys.executable, "-c", code)


async def error_line(command, pattern):
    """Wait for a line on standard error, where the proxy of exec speaks."""
    command.process.stdout, command.process.stderr = command.process.stderr, command.process.stdout
    command.output, command.errors = command.errors, command.output
    try:
        return await command.line(pattern)
    finally:
        command.process.stdout, command.process.stderr = command.process.stderr, command.process.stdout
        command.output, command.errors = command.errors, command.output


async def test_the_application_runs_when_the_proxy_accepts_and_finds_it_in_its_environment(run_command, monkeypatch):
    code = """
import os, socket
for name in ("LINKERD_PROXY_LISTEN", "LINKERD_PROXY_ADMIN"):
    host, port = os.environ[name].split(":")
    socket.create_connection((host, int(port))).close()
print("PORT", os.environ["PORT"])
"""
    monkeypatch.delenv("PORT", raising=False)
    done = await run_command(*python(code))
    assert (done.status, done.output) == (0, "PORT 9\n")
    done = await run_command(*python(code), environment={"PORT": "8000"})
    assert (done.status, done.output) == (0, "PORT 8000\n")  # one that is set is left alone


@pytest.mark.parametrize("status", [0, 1, 7, 255])
async def test_it_exits_with_the_applications_status(run_command, status):
    assert (await run_command(*python(f"raise SystemExit({status})"))).status == status


async def test_an_application_that_a_signal_ended_is_128_more(run_command):
    done = await run_command(*python("import os; os.kill(os.getpid(), 9)"))
    assert done.status == 128 + 9


async def test_standard_input_and_output_are_the_applications_and_the_proxy_speaks_on_standard_error(run_command):
    done = await run_command(*python("import sys; print(sys.stdin.read() or 'nothing')"))
    assert done.output == "nothing\n"
    assert "\nlistening on 127.0.0.1:" in done.errors


@pytest.mark.parametrize(
    ("program", "status", "told"),
    [
        ("no-such-program", 127, "can't run no-such-program: No such file or directory"),
        ("/etc/passwd", 126, "can't run /etc/passwd: Permission denied"),
    ],
)
async def test_an_application_that_can_not_be_started_is_told(run_command, program, status, told):
    done = await run_command(*PROXY, "--", program)
    assert done.status == status
    assert done.errors.endswith(f"linkerd-proxy: {told}\n")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--to", "127.0.0.1:9", "--stack", "x:y"), "say what to serve: either --to HOST:PORT or a stack"),
        (("--identity", "/nowhere", "--outbound", "127.0.0.1:0", "--listen", "127.0.0.1:0"), "/nowhere/"),
        (("--stack", "no_such.py:proxy"), "there is no file no_such.py"),
        (("--to", "127.0.0.1:9", "--listen", "unix:/nowhere/socket"), "cannot listen on unix:/nowhere/socket"),
    ],
)
async def test_a_proxy_that_can_not_be_started_runs_no_application(run_command, options, told):
    done = await run_command(*python("print('ran')", "exec", *options))
    assert (done.status, done.output) == (2, "")
    assert told in done.errors
    assert done.errors.count("\n") == 1


WAITS = """
import signal, sys
print("started", flush=True)
number = signal.sigwait({%s})
print("got", number, flush=True)
sys.stdin.read()
sys.exit(3)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
async def test_signals_reach_the_application(command, number):
    code = f"import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {{{int(number)}}})" + WAITS % int(number)
    async with command(*python(code)) as running:
        await running.line("^started$")
        running.signal(number)
        assert await running.ended() == 3
        assert running.output.endswith(f"got {int(number)}\n")


LINGERS = """
import os, signal, socket, threading
signal.pthread_sigmask(signal.SIG_BLOCK, {15})
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
print("serving", flush=True)
signal.sigwait({15})
print("ending", flush=True)
connection, _ = server.accept()
connection.recv(65536)
connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 4\\r\\nconnection: close\\r\\n\\r\\nlast")
"""


async def test_the_proxy_serves_on_until_the_application_has_ended(command, fetch):
    with held_port() as port:
        await serves_on(command, fetch, port)


async def serves_on(command, fetch, port):
    options = ("exec", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--to", f"127.0.0.1:{port}")
    async with command(*python(LINGERS, *options)) as running:
        address = (await error_line(running, r"^listening on (\S+)$"))[1]
        admin = (await error_line(running, r"^admin on (\S+)$"))[1]
        await running.line("^serving$")
        assert await fetch(admin, "/ready") == (200, b"ready\n")
        running.signal()
        await running.line("^ending$")
        assert (await fetch(admin, "/ready"))[0] == 503
        assert await fetch(address) == (200, b"last")
        assert await running.ended() == 0


async def test_workers_serve_an_application_too(run_command):
    done = await run_command(*python("raise SystemExit(5)", *PROXY, "--workers", "2"))
    assert done.status == 5


async def test_a_stack_of_the_users_own(command, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from linkerd_proxy import Connect, Forward\nproxy = Forward() | Connect('127.0.0.1:9')\n"
    )
    options = ("exec", "--stack", "mine.py:proxy", "--listen", "127.0.0.1:0")
    async with command(*python("import sys; print('up', flush=True)", *options), cwd=tmp_path) as running:
        address = (await error_line(running, r"^listening on (\S+)$"))[1]
        await running.line("^up$")
        assert address
        assert await running.ended() == 0
        with pytest.raises(Exception, match="refused"):
            await dial(address)
