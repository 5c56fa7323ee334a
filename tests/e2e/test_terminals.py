"""`sandbox.pty`, through the official SDK, with a terminal emulator to look at the screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pyte
import pytest
from e2b import (
    AsyncSandbox,
    CommandExitException,
    CommandResult,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    Sandbox,
)
from e2b.sandbox_sync.commands.command_handle import CommandHandle

from tests.server import RunningServer

SIZE = PtySize(rows=24, cols=80)
PROMPT = "$ "


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for a condition; fail loudly when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class Screen(pyte.Screen):
    """Takes vim's setting of its keys' modes (`CSI > 4 ; 2 m`) for what it is: not a colour."""

    def select_graphic_rendition(self, *attrs: int, private: bool = False) -> None:
        if not private:
            super().select_graphic_rendition(*attrs)


class Terminal:
    """One client of a PTY: what it has received, and the screen that makes."""

    def __init__(self, sandbox: Sandbox, handle: CommandHandle, size: PtySize = SIZE) -> None:
        self.sandbox = sandbox
        self.pid = handle.pid
        self.output = bytearray()
        self.screen = Screen(size.cols, size.rows)
        self.result: CommandResult | Exception | None = None
        self._stream = pyte.ByteStream(self.screen)
        self._thread = threading.Thread(target=self._follow, args=[handle], daemon=True)
        self._thread.start()

    def _follow(self, handle: CommandHandle) -> None:
        try:
            self.result = handle.wait(on_pty=self._receive)
        except Exception as error:
            self.result = error

    def _receive(self, data: bytes) -> None:
        assert type(data) is bytes
        self.output += data
        self._stream.feed(data)

    def send(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.sandbox.pty.send_stdin(self.pid, data)

    def expect(self, text: str | bytes) -> None:
        """Wait until this has been received."""
        data = text.encode() if isinstance(text, str) else text
        try:
            wait_until(lambda: data in self.output)
        except AssertionError:
            raise AssertionError(f"no {data!r} in {bytes(self.output[-2000:])!r}") from None

    def expect_screen(self, condition: Callable[[list[str]], object]) -> list[str]:
        """Wait until the screen is so."""
        try:
            wait_until(lambda: condition(list(self.screen.display)))
        except AssertionError:
            raise AssertionError("\n".join(self.screen.display)) from None
        return list(self.screen.display)

    def join(self) -> CommandResult | Exception:
        """Wait for the end of the stream."""
        self._thread.join(30)
        assert self.result is not None, "the terminal has not ended"
        return self.result


@pytest.fixture
def terminal(sandbox: Sandbox) -> Terminal:
    """A shell that is ready."""
    made = Terminal(sandbox, sandbox.pty.create(SIZE, timeout=0))
    made.expect(PROMPT)
    return made


def test_a_shell_of_ones_own(terminal: Terminal) -> None:
    terminal.send("stty size; tty; echo $TERM:$LANG; whoami; pwd; echo d''one\n")
    terminal.expect("done")
    text = terminal.output.decode()
    for each in ("24 80", "/dev/pts/", "xterm-256color:C.UTF-8", "\nuser", "\n/home/user"):
        assert each in text
    assert "job control" not in text
    assert "no tty" not in text
    terminal.send("exit 3\n")
    ended = terminal.join()
    assert isinstance(ended, CommandExitException)
    assert ended.exit_code == 3


def test_user_directory_and_variables(sandbox: Sandbox) -> None:
    handle = sandbox.pty.create(SIZE, user="root", cwd="/tmp", envs={"A": "b c", "TERM": "vt100"})
    terminal = Terminal(sandbox, handle)
    terminal.send('echo "$(whoami)|$PWD|$A|$TERM|$HOME"; exit\n')
    terminal.expect("root|/tmp|b c|vt100|/root")
    terminal.join()


def test_a_new_size_is_signalled(terminal: Terminal) -> None:
    terminal.send("trap 'echo size is $(stty size)' WINCH; echo re''ady\n")
    terminal.expect("ready")
    terminal.sandbox.pty.resize(terminal.pid, PtySize(rows=50, cols=132))
    terminal.expect("size is 50 132")
    terminal.send("tput cols; tput lines\n")
    terminal.expect("132\r\n50\r\n")
    with pytest.raises(InvalidArgumentException, match="65535"):
        terminal.sandbox.pty.resize(terminal.pid, PtySize(rows=0, cols=1))
    with pytest.raises(NotFoundException):
        terminal.sandbox.pty.resize(999999, SIZE)


def test_control_characters_reach_the_foreground(terminal: Terminal) -> None:
    terminal.send("echo be''gun; sleep 1000; echo status $?\n")
    terminal.expect("begun")
    terminal.send(b"\x03")
    terminal.send("echo it was $?\n")
    terminal.expect("it was 130")
    terminal.send("echo ag''ain; sleep 1000\n")
    terminal.expect("again")
    terminal.send(b"\x1a")
    terminal.expect("Stopped")
    terminal.send("kill -9 %1\n")
    terminal.send("echo re''ady; cat > typed; echo re''ad $(cat typed)\n")
    terminal.expect("ready")
    terminal.send(b"some words\n\x04")
    terminal.expect("read some words")
    terminal.send(b"\x04")
    ended = terminal.join()
    assert isinstance(ended, CommandResult)
    assert ended.exit_code == 0


def test_a_job_left_in_the_background_does_not_hold_the_terminal(terminal: Terminal) -> None:
    sandbox = terminal.sandbox
    count = "pgrep -f '^sleep 321[01]' | wc -l"
    terminal.send("setsid sleep 3210 & nohup sleep 3211 &\n")
    wait_until(lambda: sandbox.commands.run(count).stdout == "2\n")
    terminal.send("exit\n")
    ended = terminal.join()
    assert isinstance(ended, CommandResult)
    assert sandbox.commands.run(count).stdout == "2\n", "they live on"


def test_kill_ends_all_that_was_started_in_it(terminal: Terminal) -> None:
    sandbox = terminal.sandbox
    terminal.send("setsid sleep 3300 & sleep 3301 & nohup sleep 3302 & sleep 3303\n")
    wait_until(lambda: "4" in sandbox.commands.run("pgrep -fc '^sleep 330'").stdout)
    assert sandbox.pty.kill(terminal.pid) is True
    ended = terminal.join()
    assert isinstance(ended, CommandExitException)
    assert ended.error == "signal: killed"
    left = sandbox.commands.run("pgrep -fa '^sleep 330'").stdout
    assert left.split()[1:] == ["sleep", "3300"], "only what left the session lives on"
    assert sandbox.pty.kill(terminal.pid) is False


def test_reconnect_and_many_clients(terminal: Terminal) -> None:
    sandbox = terminal.sandbox
    handle = sandbox.pty.create(SIZE, timeout=0)
    sandbox.pty.send_stdin(handle.pid, b"sleep 1; echo fi''rst; read line; echo li''ne:$line\n")
    handle.disconnect()
    # What comes while nobody listens is kept for the next one.
    one = Terminal(sandbox, sandbox.pty.connect(handle.pid, timeout=0))
    one.expect("first")
    others = [Terminal(sandbox, sandbox.pty.connect(handle.pid, timeout=0)) for _ in range(3)]
    others[1].send("from another\n")
    for each in (one, *others):
        each.expect("line:from another")
    one.send("exit\n")
    for each in (one, *others):
        each.join()
    with pytest.raises(NotFoundException):
        sandbox.pty.connect(999999)
    assert terminal.result is None, "the other terminal goes on"


def test_output_is_bytes(terminal: Terminal) -> None:
    terminal.send("stty -opost; printf '\\xff\\x00\\xe2\\x82'; printf '\\xac.en''d'; stty opost\n")
    terminal.expect(b"\xff\x00\xe2\x82\xac.end")


def test_a_stream_of_input(terminal: Terminal) -> None:
    lines = [f"echo number $(({n} * 7))\n".encode() for n in range(50)]
    terminal.sandbox.pty.stream_input(terminal.pid, lines)
    for n in range(50):
        terminal.expect(f"number {n * 7}\r\n")


def test_a_slow_reader_loses_nothing_and_costs_little(sandbox: Sandbox) -> None:
    handle = sandbox.pty.create(SIZE, timeout=0)
    sandbox.pty.send_stdin(handle.pid, b"stty -echo; echo be''gin; exec seq 1 3000000\n")
    # Nobody reads: the program has to wait, and not the sandbox's memory to fill.
    running = "ps -o stat=,wchan= -p " + str(handle.pid)
    wait_until(lambda: sandbox.commands.run(running).stdout.startswith("S"))
    resident = "awk '/VmRSS/ {print $2}' /proc/1/status"
    assert int(sandbox.commands.run(resident, user="root").stdout) < 40 << 10
    output = bytearray()
    handle.wait(on_pty=output.extend)
    got = bytes(output).partition(b"begin\r\n")[2].partition(b"begin\r\n")
    text = got[2] or got[0]
    assert len(text) == sum(len(str(n)) + 2 for n in range(1, 3000001))
    assert text.endswith(b"2999999\r\n3000000\r\n")


def test_vim(terminal: Terminal) -> None:
    terminal.send("vim notes.txt\n")
    terminal.expect_screen(lambda rows: "notes.txt" in rows[23] and rows[5].startswith("~"))
    terminal.send("ifirst line\nsecond £ line\x1b")
    rows = terminal.expect_screen(lambda rows: rows[1].startswith("second £ line"))
    assert rows[0].startswith("first line")
    terminal.sandbox.pty.resize(terminal.pid, PtySize(rows=12, cols=40))
    terminal.screen.resize(12, 40)
    terminal.send(":set laststatus=2 number\n")
    rows = terminal.expect_screen(lambda rows: rows[1].startswith("  2 second"))
    assert rows[10].startswith("notes.txt")
    terminal.send(":wq\n")
    terminal.expect(b"\x1b[?1049l")
    terminal.send("echo a''fter\n")
    terminal.expect("after")
    assert terminal.sandbox.files.read("notes.txt") == "first line\nsecond £ line\n"


def test_top(terminal: Terminal) -> None:
    terminal.send("sleep 4000 & top -d 0.5\n")
    rows = terminal.expect_screen(
        lambda rows: rows[0].startswith("top - ") and any(" sleep" in row for row in rows)
    )
    assert any("PID USER" in row for row in rows)
    before = rows[0]
    terminal.expect_screen(lambda rows: rows[0] != before)
    terminal.send("q")
    terminal.send("echo st''ill here\n")
    terminal.expect_screen(lambda rows: any(row.startswith("still here") for row in rows))


async def test_the_async_sdk(server: RunningServer) -> None:
    sandbox = await AsyncSandbox.create(timeout=60, **server.options)
    try:
        output = bytearray()
        handle = await sandbox.pty.create(SIZE, on_data=output.extend)
        await sandbox.pty.resize(handle.pid, PtySize(rows=30, cols=90))
        await sandbox.pty.send_stdin(handle.pid, b"stty size; exit 4\n")
        with pytest.raises(CommandExitException) as caught:
            await handle.wait()
        assert caught.value.exit_code == 4
        assert b"30 90" in output
        other = await sandbox.pty.create(SIZE, on_data=output.extend)
        await other.disconnect()
        again = await sandbox.pty.connect(other.pid, on_data=output.extend)
        assert await again.kill() is True
        with pytest.raises(CommandExitException):
            await again.wait()
    finally:
        await sandbox.kill()
