"""Runs modules of Python as forks of one process that has imported the libraries which take seconds to import.

A stage of a small network computes for seconds or minutes, and imports torch and open_clip for four to ten seconds of
processor time before, and is a second or more in unloading them. A fork has them at once and leaves without that. What
is forked is a process that does nothing but import, so it has
opened no device and started no thread of OpenMP. It is this module:

    python -m vqpipe.runtime.forks SOCKET torch open_clip

Each message on the socket is one JSON object: `{"id", "words", "log"}` asks for a fork, `{"id", "pid"}` answers that it
has begun and `{"id", "code"}` that it has ended. Forks end with this process (see `signals.end_with_parent`), and this
process with the one that started it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from vqpipe.runtime.signals import end_children, end_with_parent, run_child, start_child

LIBRARIES = (
    "torch", "torch._dynamo", "open_clip", "pyarrow.parquet", "pydantic", "ruamel.yaml", "jaxtyping", "typer",
)  # fmt: skip
"""What forks have imported already, where it is installed. An optimiser's first step imports the second."""
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Files that the drivers of NVIDIA's and AMD's cards make, and Windows' for a Linux inside it."""
POLL_SECONDS = 0.05
_MESSAGE = 1 << 17
"""Bytes of the longest message: a command that a kernel takes is hardly longer."""


def can_fork() -> bool:
    """Whether stages can be forks: on Linux, where its libraries survive a fork, and where stages use no GPU.

    A driver that is asked for its cards before a fork refuses to work after it.
    """
    on_cpu = os.environ.get("VQPIPE_DEVICE") == "cpu" or not any(map(os.path.exists, GPUS))
    return sys.platform == "linux" and on_cpu


class Forks:
    """The process that is forked, as seen by the one that starts it. It begins with the first fork.

    Args:
        env: the environment of all commands.
        num_commands: how many are to come. One alone would wait for libraries that it may not need: it is no fork.
        libraries: the modules that are imported once.
    """

    def __init__(
        self, env: Mapping[str, str], num_commands: int, libraries: Sequence[str] = LIBRARIES
    ) -> None:
        self._env, self._libraries = dict(env), libraries
        self._can_fork = num_commands > 1 and can_fork()
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
        if self._takes(command):
            return self._fork(command[2:], log)
        with log.open("wb") as stream:
            return start_child(command, env=self._env, stdout=stream, stderr=subprocess.STDOUT)

    def run(self, command: Sequence[str]) -> int:
        """Run a command to its end with the outputs of this process; see `start` and `signals.run_child`.

        Returns:
            The exit code, 128 + n where signal n ended it.
        """
        if not self._takes(command):
            return run_child(command)
        fork = self._fork(command[2:], None)
        try:
            code = fork.wait()
        finally:
            end_children([fork])
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
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended, which `receive` finds
            self._socket.send(json.dumps(request).encode())
        return Fork(self, self._count, words)

    def receive(self, seconds: float) -> None:
        """Take what has been answered; wait for the first answer so long."""
        assert self._socket is not None
        while select.select([self._socket], [], [], seconds)[0]:
            seconds = 0.0
            message = b""
            with suppress(ConnectionResetError):  # it has ended before it read a request
                message = self._socket.recv(_MESSAGE)
            if not message:  # it has ended, and its forks with it
                for one in range(1, self._count + 1):
                    self.codes.setdefault(one, -signal.SIGTERM)
                return
            found = json.loads(message)
            for name, known in (("pid", self.pids), ("code", self.codes)):
                if name in found:
                    known[found["id"]] = found[name]

    def end(self) -> None:
        """Let the process end; forks that still run get SIGTERM."""
        if self._server is not None:
            self._server.terminate()

    def close(self) -> None:
        """End the process, if it was started."""
        if self._socket is not None and self._server is not None:
            self.end()
            self._socket.close()
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
        if self.poll() is not None:
            return
        pid = self._forks.pids.get(self._number)
        if pid is None:
            self._forks.end()
            return
        with suppress(ProcessLookupError):
            os.kill(pid, sig)


def _serve(own: socket.socket) -> dict[str, Any] | None:
    """Fork for each message. In the fork, return the message; here, None once the other end is closed."""
    running: dict[int, int] = {}
    while True:
        if select.select([own], [], [], POLL_SECONDS)[0]:
            message = own.recv(_MESSAGE)
            if not message:
                return None
            request: dict[str, Any] = json.loads(message)
            parent = os.getpid()
            if not (pid := os.fork()):
                end_with_parent(parent)
                return request
            running[pid] = request["id"]
            own.send(json.dumps({"id": request["id"], "pid": pid}).encode())
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                answer = {"id": running.pop(pid), "code": os.waitstatus_to_exitcode(status)}
                own.send(json.dumps(answer).encode())


class _Run:
    """What a fork runs."""

    is_fork = False
    code = 1
    """The exit code, as Python has it: 1 after an exception."""


@atexit.register  # early, so that it runs late
def _leave() -> None:
    """End a fork at once: Python would take seconds to unload torch."""
    if _Run.is_fork:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(_Run.code)


def _main() -> None:
    from_terminal = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the process that started this one
    own = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        with suppress(Exception):  # what needs it will say so
            importlib.import_module(name)
    gc.freeze()  # no fork looks through what has been imported, which would copy it
    request = _serve(own)
    if request is None:
        return
    own.close()
    signal.signal(signal.SIGINT, from_terminal)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    if request["log"] is not None:
        with open(request["log"], "wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    _Run.is_fork, sys.argv = True, request["words"]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        _Run.code = 0
    except SystemExit as end:
        _Run.code = end.code & 0xFF if isinstance(end.code, int) else int(end.code is not None)
        raise


if __name__ == "__main__":
    _main()
