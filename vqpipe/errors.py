"""Errors that a user can act on.

A mistake in a params file, an input or an environment variable raises a subclass of `VqpipeError`, and `of_system`
makes one of a full disk, too little memory and the like. Stages and tools print its text and exit with code 2
(`sentences`); they never show a traceback for it. `assert` is left for our own bugs.
"""

from __future__ import annotations

import errno
import os
import re
import select
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches

MAX_MESSAGE = 2000
"""Characters of a message; longer parts are cut."""
MAX_LINES = 24
"""Lines that a problem may have; a longer list is cut."""
READER_LEFT = 141
"""Exit code when nobody reads standard output any more; a program that SIGPIPE ends has the same."""

_RAW = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""A text for a terminal or a page: one line of valid Unicode that moves no cursor and turns no direction.

    Control characters (C0, DEL, C1), line ends, Unicode's marks of direction and lone surrogates become backslash
    escapes such as `\x1b`; everything else is unchanged.
    """
    if text.isprintable():
        return text
    return _RAW.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def human_bytes(count: float) -> str:
    """A number of bytes in the largest decimal unit that leaves at least one, such as `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def counted(count: int, one: str, several: str = "") -> str:
    """A count with its noun: `1 image`, `2,000 images`; `several` is the plural where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return `"; did you mean X?"` for the closest known word, or an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


class VqpipeError(Exception):
    """A user's mistake, described in up to five parts.

    The text has at most `MAX_MESSAGE` characters; its longest parts are cut, with a count of what there was. All parts
    are made printable.

    Args:
        problem: one sentence saying what is wrong and where; or several lines.
        found: the value or state that is wrong.
        expected: what would have been right; or several lines, as a list of texts.
        choices: the values that are allowed.
        run: the command that solves the problem.
    """

    def __init__(
        self,
        problem: str | Sequence[str],
        *,
        found: object = None,
        expected: object = None,
        choices: Iterable[object] | None = None,
        run: str | None = None,
    ) -> None:
        heads = [problem] if isinstance(problem, str) else list(problem)
        lines = [_Line(head) for head in heads[:MAX_LINES]]
        if len(heads) > MAX_LINES:
            lines.append(_Line(f"… ({len(heads):,} lines in all)"))
        if found is not None:
            lines.append(_Line(str(found), "  found:    "))
        if expected is not None:
            wanted = expected if isinstance(expected, list) else [expected]
            labels = ["  expected: ", *[" " * len("  expected: ")] * (MAX_LINES - 1)]
            lines += [_Line(str(own), label) for own, label in zip(wanted, labels, strict=False)]
        if choices is not None:
            names = [str(choice) for choice in choices]
            shown = ", ".join(names[: MAX_MESSAGE // 2])
            lines.append(_Line(shown, "  choices:  ", f"{len(names):,} in all"))
        if run is not None:
            lines.append(_Line(run, "  run:      "))
        super().__init__("\n".join(_fitted(lines)))

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), str(self))


def _again(kind: type[VqpipeError], text: str) -> VqpipeError:
    """An error from its whole text, for unpickling in another process."""
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    return error


class _Line:
    """A line of a message, and the note at its end where it is cut."""

    def __init__(self, text: str, label: str = "", note: str | None = None) -> None:
        self.text = label + printable(text[:MAX_MESSAGE])
        self.note = f"… ({note or f'{len(text):,} characters'})"

    def cut(self, room: int) -> str:
        if len(self.text) <= room:
            return self.text
        return self.text[: max(room - len(self.note), 0)] + self.note


def _fitted(lines: Sequence[_Line]) -> list[str]:
    """The lines, the longest of them cut to one length so that all fit into a message."""
    left, room = len(lines), MAX_MESSAGE - len(lines) + 1
    for length in sorted(len(line.text) for line in lines):
        if length * left > room:
            break
        left, room = left - 1, room - length
    return [line.cut(room // max(left, 1) if left else MAX_MESSAGE) for line in lines]


class ParamsError(VqpipeError):
    """A params file that does not say what the stage needs."""


class ArtifactError(VqpipeError):
    """An artifact that is missing, damaged, or of another spec or version."""


class DataError(VqpipeError):
    """A data source that cannot be read, or of which too many items cannot."""


class MismatchError(VqpipeError):
    """Two inputs that are valid by themselves but do not fit each other."""


class SetupError(VqpipeError):
    """A device, package, file system or environment variable that is missing or wrong."""


_AGAIN = "the same command again; it resumes from what is finished"
_FILE_SYSTEM = {
    errno.ENOSPC: ("no space is left", "free space where artifacts and VQPIPE_SCRATCH are", _AGAIN),
    errno.EDQUOT: ("the quota is used up", "a larger quota, or fewer files", _AGAIN),
    errno.EFBIG: ("a file grew beyond the limit of this process or file system", "a higher `ulimit -f`", _AGAIN),
    errno.EIO: ("the disk or its connection failed", "a disk that can be read and written", "dmesg | tail"),
    errno.ESTALE: ("the network file system lost a file", "a mount that is up", _AGAIN),
    errno.ENOTCONN: ("the network file system is not connected", "a mount that is up", _AGAIN),
    errno.EROFS: ("the file system is read-only", "paths on a file system that can be written", None),
    errno.EACCES: ("no permission", "a path that this user may use", None),
    errno.EPERM: ("not permitted", "a path that this user may use", None),
    errno.ENAMETOOLONG: ("the name is too long", "a shorter name", None),
    errno.ELOOP: ("the path is a loop of links", "a path that ends at a file or folder", None),
    errno.EMFILE: ("too many files are open in this process", "a higher limit of open files", "ulimit -n 4096"),
    errno.ENFILE: ("too many files are open on this machine", "fewer programs at once", _AGAIN),
    errno.EPIPE: ("a process at the other end of a pipe ended", None, _AGAIN),
    errno.EAGAIN: ("no more processes or threads can be started", "fewer of them; VQPIPE_WORKERS=1", None),
}  # fmt: skip
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENOMEM}
_FATAL |= {errno.EMFILE, errno.ENFILE}
"""Errors that stop any work. Others are often expected and handled, such as a link that is not permitted."""

_OF_MACHINE = {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOTCONN}

_IN_WORDS = [
    (re.compile(words, re.IGNORECASE), number)
    for words, number in (
        (r"no space left on device|os error 28\b|\d+ requested and \d+ written", errno.ENOSPC),
        (r"disk quota exceeded", errno.EDQUOT),
        (r"file too large", errno.EFBIG),
        (r"read-only file system", errno.EROFS),
        (r"input/output error", errno.EIO),
        (r"stale (nfs )?file handle", errno.ESTALE),
        (r"too many open files", errno.EMFILE),
        (r"file name too long", errno.ENAMETOOLONG),
        (r"permission denied \(os error", errno.EACCES),
        (r"can't start new thread|can't start new process", errno.EAGAIN),
        (
            r"(can't|cannot|unable to|failed to) (allocate|map segment)|out of memory|not enough memory",
            errno.ENOMEM,
        ),
        (
            r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|std::bad_alloc|could not create a primitive",
            errno.ENOMEM,
        ),
        (r"size calculation overflowed|integer multiplication overflow|array is too big", errno.ENOMEM),
        (r"maximum allowed dimension|overflow when unpacking long", errno.ENOMEM),
    )
]
"""Messages of libraries that report no error number."""
_TOO_DEEP, _WORKER_ENDED = -1, -2
"""Kinds of errors that have no number."""
_BUGS = (AssertionError, AttributeError, LookupError, NameError, NotImplementedError, SyntaxError)
_ASKED = re.compile(r"allocate (\d+) bytes|of size (\d+)")


def of_system(error: BaseException, lower: str | None = None) -> VqpipeError | None:
    """What a full disk, too little memory, a missing permission and the like mean to a user; None for other errors.

    The errors behind an error are looked at too: one that stops any work, such as a full disk, is what counts, even
    where other errors were raised after it. Errors of our own code (`AssertionError` and such) give None, and so does a
    `VqpipeError`, unless such an error is behind it.

    Args:
        lower: the params that determine memory, for the message.
    """
    fatal, first = None, None
    for one, is_cause in _behind(error):
        kind = _kind(one)
        if kind in _FATAL:
            fatal = one  # the oldest counts
        elif kind is not None and is_cause and first is None:
            first = one
    if isinstance(error, SetupError | ParamsError) and (fatal is None or _kind(fatal) != errno.ENOMEM):
        return None  # their own messages are more specific
    found = fatal or (None if isinstance(error, VqpipeError) else first)
    return None if found is None else _sentence(found, lower)


def is_of_machine(error: OSError) -> bool:
    """Whether a file could not be read because of the state of the machine; a later attempt may succeed.

    Such a file must not be left out as unusable.
    """
    return error.errno in _OF_MACHINE


def _behind(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """An error and those before it, newest first, and whether each is a cause: explicit (`from`), or behind `OSError`.

    Behind a bug only an explicit cause counts.
    """
    seen: set[int] = set()
    one, is_cause = error, True
    while id(one) not in seen:
        seen.add(id(one))
        yield one, is_cause
        cause, context = one.__cause__, one.__context__
        is_bug = isinstance(one, _BUGS) or (isinstance(one, TypeError) and _kind(one) is None)
        before = cause if cause is not None or one.__suppress_context__ or is_bug else context
        if before is None:
            return
        is_cause = is_cause and (cause is not None or isinstance(one, OSError))
        one = before


def _kind(error: BaseException) -> int | None:
    """The number of a system's error, from the error or from its text; ENOMEM for any lack of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return errno.ENOMEM
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    if type(error).__name__ == "BrokenProcessPool":
        return _WORKER_ENDED
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _FILE_SYSTEM or error.errno == errno.ENOMEM else None
    if isinstance(error, (VqpipeError, *_BUGS)) or not isinstance(error, Exception):
        return None
    words = str(error)[:MAX_MESSAGE]
    return next((number for pattern, number in _IN_WORDS if pattern.search(words)), None)


def _sentence(error: BaseException, lower: str | None) -> VqpipeError:
    kind = _kind(error)
    assert kind is not None
    detail = next(iter(str(error).splitlines()), "") or type(error).__name__
    if kind == _TOO_DEEP:
        return ParamsError(
            "params or a file are nested too deeply", found=detail,
            expected="params and files with fewer levels",
        )  # fmt: skip
    if kind == _WORKER_ENDED:
        return SetupError(
            "a worker process ended in the middle of its work, most often for lack of memory", found=detail,
            expected="fewer VQPIPE_WORKERS, or more memory", run=_AGAIN,
        )  # fmt: skip
    if kind == errno.ENOMEM:
        asked = next((int(a or b) for a, b in _ASKED.findall(detail)), None)
        smaller = f"a smaller {lower}" if lower else "smaller sizes in params.yaml, such as batch_size"
        return SetupError(
            "memory ran out", found=detail if asked is None else f"{human_bytes(asked)} requested at once: {detail}",
            expected=f"{smaller}; fewer VQPIPE_WORKERS; or more memory", run=_AGAIN,
        )  # fmt: skip
    problem, expected, run = _FILE_SYSTEM[kind]
    where = error.filename2 or error.filename if isinstance(error, OSError) else None
    if isinstance(where, str | bytes):
        problem = f"{problem}: {os.fsdecode(where)}"
    if isinstance(error, OSError) and error.errno is not None:
        detail = error.strerror or os.strerror(error.errno)
    return SetupError(problem, found=detail, expected=expected, run=run)


@contextmanager
def sentences(lower: str | None = None) -> Iterator[None]:
    """Turn a user's mistake and an error of the system into its text on stderr and exit code 2, without a traceback.

    Where nobody reads standard output any more, as in `vqpipe … | head`, the exit code is `READER_LEFT` and no text.

    Args:
        lower: as for `of_system`.
    """
    try:
        yield
        sys.stdout.flush()
    except Exception as error:
        if hasattr(error, "exit_code"):  # click's own, such as `typer.Exit`
            raise
        mistake = of_system(error, lower) or (error if isinstance(error, VqpipeError) else None)
        if mistake is None:
            raise
        left = isinstance(error, BrokenPipeError) and _reader_left()
        with suppress(OSError, ValueError):
            if not left:
                print(f"error: {mistake}", file=sys.stderr, flush=True)
        _give_up_output()
        raise SystemExit(READER_LEFT if left else 2) from error


def _reader_left() -> bool:
    """Whether standard output is a pipe that nobody reads."""
    with suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def _give_up_output() -> None:
    """Redirect standard output to nowhere if it cannot be written, so that Python does not try again when it exits."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
