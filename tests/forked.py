"""A `python` whose `-m MODULE` is a fork of one process that has imported the libraries which take seconds to import.

Tests of the pipeline start two hundred processes, and importing torch and its compiler takes each five to ten seconds
of processor time. `python()` is a program to call in the place of Python, also by DVC where its folder is first in
PATH. It asks the process of this module for a fork with its words, folder, environment and open files, passes signals
on and ends as the fork does. A fork has the plug-ins of `vqpipe` too, whose params models take pydantic seconds, where
the code that it is to run is the same as this tree's; else it imports `vqpipe` anew, as it does `stages`.

All forks hash strings alike: what has to be equal in two processes for another reason is made by `sys.executable`.
"""

from __future__ import annotations

import array
import atexit
import fcntl
import gc
import hashlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torchvision",
    "scipy.stats",
    "dvc.repo",
    "dvc_data.index",
    "dvc.stage.cache",
    "dvc.commands.stage",
)
"""What commands import of DVC and others, without what `vqpipe.runtime.forks` imports."""
TABLES = {
    "vqpipe.tasks": "TASKS",
    "vqpipe.priors": "PRIORS",
    "vqpipe.quantizers": "QUANTIZERS",
    "vqpipe.data.adapters": "ADAPTERS",
}
USERS = ("vqpipe.tasks.solve", "vqpipe.priors.train", "vqpipe.tokenizers.tokenizer")
"""Modules that import what most stages need besides plug-ins."""
ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.01
_MESSAGE = 1 << 17
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, sys

words = sys.argv[1:]
if words[:1] != ["-m"]:
    os.execv({python!r}, [{python!r}, *words])
files = [int(name) for name in os.listdir("/proc/self/fd")]
own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
own.connect({address!r})

def is_inherited(number):
    try:
        return os.get_inheritable(number)
    except OSError:
        return False

files = sorted(filter(is_inherited, files))
request = {{"words": words[1:], "cwd": os.getcwd(), "env": dict(os.environ), "files": files}}
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
own.sendmsg([json.dumps(request).encode()], rights)
pid = int(own.recv(64))
for number in numbers:
    signal.signal(number, lambda number, _: os.kill(pid, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
code = int(own.recv(64))
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""
"""It waits for the fork's process number and for its exit code, -n where signal n ended it."""


@cache
def python() -> Path:
    """The program; Python itself where forks are not possible. What it asks ends with this process."""
    from vqpipe.runtime import forks

    if not forks.can_fork():
        return Path(sys.executable)
    folder = tempfile.TemporaryDirectory(prefix="forked-")
    address, program = f"{folder.name}/socket", Path(folder.name) / "python"
    program.write_text(CLIENT.format(python=sys.executable, address=address))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    command = [sys.executable, "-m", __name__, address, str(program), *forks.LIBRARIES, *LIBRARIES]
    env = os.environ | {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"

    def end() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()
        folder.cleanup()

    atexit.register(end)
    return program


def _serve(listener: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for each connection. In the fork, return the request and its files; here, None when stdin is closed."""
    asked: dict[socket.socket, int] = {}
    while True:
        watched: list[Any] = [sys.stdin, listener, *asked]
        ready, _, _ = select.select(watched, [], [], POLL_SECONDS if asked else None)
        for one in ready:
            if one is sys.stdin:
                for pid in asked.values():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
                return None
            if one is not listener:  # its caller was killed
                with suppress(ProcessLookupError):
                    os.kill(asked[one], signal.SIGKILL)
                continue
            client, _ = listener.accept()
            size = array.array("i").itemsize
            message, rights, _, _ = client.recvmsg(_MESSAGE, socket.CMSG_SPACE(64 * size))
            files = array.array("i")
            for _, _, data in rights:
                files.frombytes(data)
            if not (pid := os.fork()):
                for other in (listener, client, *asked):
                    other.close()
                return json.loads(message), list(files)
            for number in files:
                os.close(number)
            asked[client] = pid
            client.send(str(pid).encode())
        for client, pid in list(asked.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with suppress(ConnectionError):
                    client.send(str(os.waitstatus_to_exitcode(status)).encode())
                del asked[client]
                client.close()


def _code(folder: Path) -> str | None:
    """A hash of the code of `vqpipe` and `stages` in a folder; None where there is none of `vqpipe`."""
    if not (folder / "vqpipe").is_dir():
        return None
    files = sorted(file for part in ("vqpipe", "stages") for file in (folder / part).rglob("*.py"))
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(folder)}\n".encode())
        found.update(file.read_bytes())
    return found.hexdigest()


def _import_plugins() -> None:
    for module, name in TABLES.items():
        getattr(importlib.import_module(module), name).params()
    for module in USERS:
        importlib.import_module(module)


def _forget(*packages: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]


def _run(request: dict[str, Any], files: list[int], program: str, paths: list[str], code: str | None) -> int:
    """In the fork: run the module as `python -m` does; the exit code."""
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD, 1000) for number in files]
    for number in files:
        os.close(number)
    for number, target in zip(moved, request["files"], strict=True):
        os.dup2(number, target)
        os.close(number)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    own = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [request["cwd"], *own, *paths]
    if next(filter(None, map(_code, map(Path, sys.path))), None) != code:
        _forget("vqpipe")
    sys.executable = program
    module, *words = request["words"]
    sys.argv = ["-m", *words]
    if not hasattr(sys.modules.get(module), "__path__"):
        sys.modules.pop(module, None)  # runpy warns of a module that is there already
    try:
        with suppress(ModuleNotFoundError):
            importlib.import_module("sitecustomize")
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _main() -> None:
    address, program, *names = sys.argv[1:]
    for name in names:
        importlib.import_module(name)
    _import_plugins()
    _forget("stages", "tests", "sitecustomize")
    of_ours = {*os.environ["PYTHONPATH"].split(os.pathsep), os.getcwd()}
    paths = [path for path in sys.path if path not in of_ours]
    code = _code(ROOT)
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    request = _serve(listener)
    if request is None:
        return
    ended = _run(*request, program, paths, code)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)


if __name__ == "__main__":
    _main()
