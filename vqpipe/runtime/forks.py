"""Runs modules of Python as forks of one process that has imported the libraries which take seconds to import.

A stage of a small network computes for seconds or minutes. Importing torch and open_clip takes it four to ten seconds
of processor time before that, and Python a second or more after it to unload them. A fork has them at once and leaves
without unloading. What is forked is a process that does nothing but import: it has opened no device and computed
nothing. It is this module:

    python -m vqpipe.runtime.forks SOCKET torch open_clip

Each message on the socket is one JSON object: `{"id", "words", "log"}` asks for a fork, `{"id", "pid"}` answers that it
has begun and `{"id", "code"}` that it has ended. When the other end of the socket is closed, by the process that
started this one or by its death, the forks get SIGTERM, and this process ends after the last of them.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from vqpipe.runtime.signals import (
    SIGNALS,
    Stopped,
    end_children,
    end_with_parent,
    hold_signals,
    leave_at_once,
    start_child,
)
from vqpipe.runtime.terminal import say

LIBRARIES = ("torch", "torch._dynamo", "open_clip", "pydantic", "ruamel.yaml", "jaxtyping", "typer")
"""What forks have imported already, where they are installed. An optimiser's first step imports `torch._dynamo`."""
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Files that the drivers of NVIDIA's and AMD's cards make, and Windows' for a Linux inside it."""
POLL_SECONDS = 0.05
_MESSAGE = 1 << 17
"""Bytes of the longest message; commands are far shorter."""


def may_use_gpu() -> bool:
    """Whether stages may use a GPU; found without its driver, which refuses to work in a fork once it was asked."""
    return os.environ.get("VQPIPE_DEVICE") != "cpu" and any(map(os.path.exists, GPUS))


def can_fork() -> bool:
    """Whether stages can be forks: on Linux, where the imported libraries survive a fork, and where they use no GPU."""
    return sys.platform == "linux" and not may_use_gpu()


class Forks:
    """The process that is forked, as seen by the one that starts it. It begins with the first fork.

    Args:
        env: the environment of all commands.
        wanted: whether commands are to be forks, where that is possible. A single command would wait for libraries that
            it may not need. A fork shares the libraries' pages and spends no time on them, so that what is recorded of
            its memory and processor time is less.
        libraries: the modules that are imported once.
    """

    def __init__(self, env: Mapping[str, str], wanted: bool, libraries: Sequence[str] = LIBRARIES) -> None:
        self._env, self._libraries = dict(env), libraries
        self._can_fork = wanted and can_fork()
        self._socket: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self.pids: dict[int, int] = {}
        self.codes: dict[int, int] = {}
        self._count = 0

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command, as a fork where it is `python -m MODULE ARGUMENT…` with this Python and forks are possible.

        Args:
            command: its words.
            log: the file that gets both outputs.
        """
        with log.open("wb") as stream:  # emptied also for a fork that never begins
            if not self._takes(command):
                return start_child(command, env=self._env, stdout=stream, stderr=subprocess.STDOUT)
        return self._fork(command[2:], log)

    def run(self, command: Sequence[str]) -> int:
        """Run a command to its end with the outputs of this process; see `start`.

        Returns:
            The exit code, 128 + n where signal n ended it.

        Raises:
            Stopped: a signal ends this process; the command, to which it was passed on, has ended.
        """
        takes = self._takes(command)
        child = self._fork(command[2:], None) if takes else start_child(command, env=self._env)
        try:
            code = child.wait()
        except Stopped as stop:
            end_children([child], stop.signum)
            raise
        return code if code >= 0 else 128 - code

    def _takes(self, command: Sequence[str]) -> bool:
        return self._can_fork and list(command[:2]) == [sys.executable, "-m"]

    def _fork(self, words: Sequence[str], log: Path | None) -> Fork:
        if self._socket is None:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            command = [sys.executable, "-m", __name__, str(theirs.fileno()), *self._libraries]
            self._server = start_child(command, env=self._env, pass_fds=[theirs.fileno()])
            theirs.close()
        self._count += 1
        request = {"id": self._count, "words": list(words), "log": None if log is None else str(log)}
        with suppress(ConnectionError):  # it has ended, which `receive` finds
            self._socket.send(json.dumps(request).encode())
        return Fork(self, self._count, words)

    def receive(self, seconds: float) -> None:
        """Take what has been answered; wait up to so many seconds for the first."""
        assert self._socket is not None
        while self._can_fork and select.select([self._socket], [], [], seconds)[0]:
            seconds = 0.0
            with hold_signals():
                message = _received(self._socket)
                found = json.loads(message) if message else {}
                for name, known in (("pid", self.pids), ("code", self.codes)):
                    if name in found:
                        known[found["id"]] = found[name]
            if not message:
                self._lose()

    def _lose(self) -> None:
        """After the end of the process: its forks have been sent SIGTERM, and what is yet to come is no fork."""
        assert self._server is not None
        self._can_fork, code = False, self._server.wait()
        lost = [one for one in range(1, self._count + 1) if one not in self.codes]
        self.codes |= dict.fromkeys(lost, -signal.SIGTERM)
        if lost and code != -signal.SIGTERM:
            say(
                f"the process that stages are forked from ended with code {code}; stages lost with it: {len(lost)}",
                err=True,
            )

    def end(self) -> None:
        """End the process while it imports."""
        if self._server is not None:
            self._server.terminate()

    def close(self) -> None:
        """End the process, if it was started; forks that still run get SIGTERM and are waited for."""
        if self._socket is not None and self._server is not None:
            self._socket.close()
            if not self.pids:
                self.end()
            self._server.wait()


class Fork(subprocess.Popen[bytes]):
    """A module that runs as a fork. It is the child of another process, which is asked for its end and exit code."""

    def __init__(self, forks: Forks, number: int, words: Sequence[str]) -> None:
        self._forks, self._number, self.args = forks, number, words
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, -n where signal n ended it; None while it runs."""
        self._forks.receive(0.0)
        self.returncode = self._forks.codes.get(self._number)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs after so many seconds.
        """
        until = None if timeout is None else monotonic() + timeout
        while (code := self.poll()) is None:
            left = POLL_SECONDS if until is None else min(POLL_SECONDS, until - monotonic())
            if left <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._forks.receive(left)
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal if it runs; what has not begun, while libraries are imported, ends with all forks."""
        if self._forks.pids:
            while self.poll() is None and self._number not in self._forks.pids:  # it is about to begin
                self._forks.receive(POLL_SECONDS)
        if self.poll() is not None:
            return
        if self._number not in self._forks.pids:
            self._forks.end()
            return
        with suppress(ProcessLookupError):
            os.kill(self._forks.pids[self._number], sig)


def _serve(own: socket.socket) -> dict[str, Any] | None:
    """Fork for each message. In the fork, return it; here, None once the socket is closed and no fork is left."""
    running: dict[int, int] = {}
    is_open, parent = True, os.getpid()
    while is_open or running:
        if select.select([own] if is_open else [], [], [], POLL_SECONDS)[0]:
            message = _received(own)
            if not message:
                is_open = False
                for pid in running:
                    os.kill(pid, signal.SIGTERM)
                continue
            request: dict[str, Any] = json.loads(message)
            if not (pid := os.fork()):
                end_with_parent(parent)
                return request
            running[pid] = request["id"]
            _answer(own, {"id": request["id"], "pid": pid})
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                _answer(own, {"id": running.pop(pid), "code": os.waitstatus_to_exitcode(status)})
    return None


def _received(own: socket.socket) -> bytes:
    """The next message; nothing where the other end is closed, also if it left messages unread."""
    with suppress(ConnectionResetError):
        return own.recv(_MESSAGE)
    return b""


def _answer(own: socket.socket, answer: dict[str, int]) -> None:
    with suppress(ConnectionError):  # the other end is closed
        own.send(json.dumps(answer).encode())


def _import(names: Sequence[str]) -> bool:
    """Import modules, as far as they are installed. False where one is broken, which a second import may hide."""
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                return False
        except BaseException:
            return False
    return True


def _main() -> None:
    number, *names = sys.argv[1:]
    own = socket.socket(fileno=int(number))
    # Ctrl-C is for the starter to pass on.
    handlers = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    can_run = _import(names)
    # What a terminal or scheduler sends to all processes: forks are to end first, and their codes to be answered.
    handlers |= {
        number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS if number not in handlers
    }
    gc.freeze()  # keeps what has been imported out of the forks' collections, which would copy its pages
    with warnings.catch_warnings():
        # Libraries stop their threads at a fork.
        warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
        request = _serve(own)
    if request is None:
        return
    own.close()
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    if request["log"] is not None:
        with open(request["log"], "wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    module, *words = request["words"]
    if not can_run or not _is_there(module):
        os.execv(sys.executable, [sys.executable, "-m", module, *words])
    sys.argv = ["-m", *words]
    leave_at_once(1)  # Python's exit code after an exception
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        leave_at_once()
    except SystemExit as end:
        leave_at_once(end.code & 0xFF if isinstance(end.code, int) else int(end.code is not None))
        raise


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


if __name__ == "__main__":
    _main()
