"""How a command ends by a signal: SIGINT (Ctrl-C), SIGTERM (`kill`, a scheduler) or SIGHUP (a closed terminal).

Commands open `stop_on_signals`; importing vqpipe changes no handler. A command has `DEADLINE` seconds for its clean-up.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEADLINE = 4.0
"""Seconds from the first signal to the end of the process, however long one operation takes."""
CHILDREN_SECONDS = 3.0
"""How long children may take to end before they are killed; less than `DEADLINE`."""
PASS_ON_SECONDS = 0.5
"""How long a child may take to end by a Ctrl-C of its own before the signal is passed on to it."""

_PR_SET_PDEATHSIG = 1
_taken: list[int] = []
"""The signals that `stop_on_signals` handles now."""


class Stopped(SystemExit):
    """A signal asks this process to end. Not an `Exception`, so that no handler of errors takes it.

    Attributes:
        signum: the signal's number; the exit code is 128 + that.
        kept: the scratch folder from which the next run resumes, where there is one.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        self.kept: Path | None = None


class _Stop:
    """The state of the signal that ends this process; later signals change nothing."""

    signum = 0
    raised: weakref.ref[Stopped] | None = None
    """Dead where code between the handler and the command swallowed the exception, as imports inside C code do."""
    cleaned = False
    """Whether the command's block has ended."""
    holds = 0
    """How many `hold_signals` are open."""
    waiting = 0
    """A signal that came while one was."""


def _stop(signum: int, _: FrameType | None) -> None:
    if _Stop.holds:
        _Stop.waiting = _Stop.waiting or signum
    elif _Stop.raised is None:
        stop = Stopped(signum)
        _Stop.signum, _Stop.raised = signum, weakref.ref(stop)
        try:
            raise stop
        finally:
            del (
                stop
            )  # the traceback holds this frame: with the name in it, nobody would see that it was swallowed


_masks: list[set[int]] = []


def _block() -> None:
    """Before a fork: let no signal reach the child while it still has the handlers of its parent."""
    _masks.append({int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, _taken)})


def _unblock() -> None:
    if _masks:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _forget() -> None:
    """In a forked child: end by a signal as any process does, and write nothing to the pipe of the parent."""
    if _taken:
        signal.set_wakeup_fd(-1)
        for number in _taken:
            signal.signal(number, signal.SIG_DFL)
        _taken.clear()
    _unblock()


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_forget)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let a signal that asks for the end raise `Stopped` in the block, once; then say so in one line and exit.

    The exit code is 128 + the signal's number. A process that is still there `DEADLINE` seconds after the signal is
    ended where it is, as by SIGKILL. What the caller ignores stays ignored. Outside the main thread, and inside
    another such block, this does nothing.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {n: old for n, old in before.items() if old not in (signal.SIG_IGN, _stop, None)}
    if not before:
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, frozenset(before)), daemon=True).start()
    _taken[:], _Stop.cleaned = before, False
    take_back()
    stop: Stopped | None = None
    try:
        yield
    except BaseException as error:  # after the signal any error is a consequence of it
        if not _Stop.signum:
            raise
        stop = error if isinstance(error, Stopped) else None
    finally:
        _Stop.cleaned = True
        for number, old in before.items():
            signal.signal(number, signal.SIG_IGN if _Stop.signum else old)
        signal.set_wakeup_fd(wakeup)
        _taken.clear()
        if not _Stop.signum:
            os.close(writer)
    if _Stop.signum:
        kept = f"{stop.kept} is kept; " if stop and stop.kept else ""
        _say(f"stopped by {signal.Signals(_Stop.signum).name}; {kept}to resume, run the same command again")
        raise Stopped(_Stop.signum)


def _watch(reader: int, numbers: frozenset[int]) -> None:
    """End the process in time after a signal, which Python writes to the pipe even while the main thread is in C."""
    with open(reader, "rb", buffering=0) as stream:
        while (got := stream.read(1)) and got[0] not in numbers:
            pass
        if not got:
            return
        until = monotonic() + DEADLINE
        while monotonic() < until:
            sleep(0.05)
            lost = not _Stop.waiting if _Stop.raised is None else _Stop.raised() is None
            # Swallowed, or it came just before a call that waits, which a second one ends.
            if lost and not _Stop.cleaned:
                _Stop.raised = None
                signal.pthread_kill(threading.main_thread().ident or 0, got[0])
        if not _Stop.cleaned:
            _say(
                f"stopped by {signal.Signals(got[0]).name} in a long operation; to resume, run the same command again"
            )
        os._exit(128 + got[0])


class _Leave:
    """The exit code with which the process is to leave without unloading, if it is."""

    code: int | None = None


def leave_at_once(code: int = 0) -> None:
    """For a command that is all that this process does: let Python's end skip what comes after its exit handlers, since
    unloading torch takes it a second or more, and exit with this code."""
    _Leave.code = code


@atexit.register  # first of all, so that it runs last
def _leave() -> None:
    """End at once what a signal has ended, or what `leave_at_once` has been called for."""
    if not _Stop.signum and _Leave.code is None:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:
        if not _Stop.signum:
            return  # Python's own end reports it
    os._exit(128 + _Stop.signum if _Stop.signum else _Leave.code or 0)


def _say(text: str) -> None:
    with suppress(OSError):
        os.write(2, f"{Path(sys.argv[0]).stem}: {text}\n".encode())


def close_pool(pool: ThreadPoolExecutor) -> None:
    """Drop what has not begun and wait for what has; no waiting where a signal ends this process."""
    pool.shutdown(wait=not _Stop.signum, cancel_futures=True)


def is_stopping() -> bool:
    """Whether a signal ends this process."""
    return _Stop.signum > 0


@contextmanager
def hold_signals() -> Iterator[None]:
    """Let a signal that comes in the block raise `Stopped` at its end: for a short step that must not be cut in two."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Stop.holds += 1
    try:
        yield
    finally:
        _Stop.holds -= 1
        if _Stop.waiting and not _Stop.holds:
            signum, _Stop.waiting = _Stop.waiting, 0
            _stop(signum, None)


def take_back() -> None:
    """Put the handlers of `stop_on_signals` in place again after a package has put its own there."""
    if threading.current_thread() is threading.main_thread():
        for number in _taken:
            signal.signal(number, _stop)


def start_child(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a command that ends with this process: on Linux it gets SIGTERM when this process dies in any way.

    Args:
        options: of `subprocess.Popen`.
    """
    return subprocess.Popen(command, preexec_fn=partial(end_with_parent, os.getpid(), _libc()), **options)


def end_with_parent(parent: int, libc: Any = None) -> None:
    """Let the kernel send SIGTERM to this process when `parent`, which started it, ends; only Linux can."""
    if libc := libc or _libc():
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it ended before
            os.kill(os.getpid(), signal.SIGTERM)


def _libc() -> Any:
    import ctypes  # not at the top: it would slow the start of every command

    return ctypes.CDLL(None) if sys.platform == "linux" else None


def run_child(command: Sequence[str]) -> int:
    """Run a command to its end and return its exit code, 128 + n where signal n ended it.

    Raises:
        Stopped: a signal ends this process; the command, to which it was passed on, has ended.
    """
    child = start_child(command)
    try:
        code = child.wait()
    except Stopped as stop:
        if stop.signum == signal.SIGINT:  # from a terminal the child has it too
            with suppress(subprocess.TimeoutExpired):
                child.wait(PASS_ON_SECONDS)
        end_children([child], stop.signum)
        raise
    return code if code >= 0 else 128 - code


def end_children(children: Sequence[subprocess.Popen[bytes]], signum: int = signal.SIGTERM) -> None:
    """Send a signal to children that run and wait until all have ended; those that do not in time are killed."""
    for child in children:
        child.send_signal(signum)
    until = monotonic() + CHILDREN_SECONDS
    for child in children:
        try:
            child.wait(max(0.0, until - monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
