"""Errors that a user can act on.

A mistake in a params file, an input or an environment variable raises a subclass of `VqpipeError`. Stages and
tools print its text and exit with code 2; they never show a traceback for it. `assert` is left for our own bugs.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class VqpipeError(Exception):
    """A user's mistake, told in up to five parts.

    Args:
        problem: one sentence saying what is wrong and where.
        found: what was there.
        expected: what would have been right.
        choices: the values that are allowed.
        run: the command that gets the user out of here.
    """

    def __init__(
        self,
        problem: str,
        *,
        found: object = None,
        expected: object = None,
        choices: Iterable[object] | None = None,
        run: str | None = None,
    ) -> None:
        lines = [problem]
        if found is not None:
            lines.append(f"  found:    {found}")
        if expected is not None:
            lines.append(f"  expected: {expected}")
        if choices is not None:
            lines.append(f"  choices:  {', '.join(str(choice) for choice in choices)}")
        if run is not None:
            lines.append(f"  run:      {run}")
        super().__init__("\n".join(lines))


class ParamsError(VqpipeError):
    """A params file that does not say what the stage needs."""


class ArtifactError(VqpipeError):
    """An artifact that is missing, damaged, or of another spec or version."""


class DataError(VqpipeError):
    """A data source that cannot be read, or too large a part of which cannot."""


class MismatchError(VqpipeError):
    """Two inputs, each sound, that do not fit each other."""


class SetupError(VqpipeError):
    """A device, package, file system or environment variable that is not as it must be."""


_FILE_SYSTEM = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "not permitted",
    errno.ENAMETOOLONG: "the name is too long",
}


def of_file_system(error: OSError) -> SetupError | None:
    """What a full disk, missing permission or too long a name means to a user; None for any other `OSError`."""
    if error.errno not in _FILE_SYSTEM:
        return None
    where = error.filename2 or error.filename
    return SetupError(_FILE_SYSTEM[error.errno] + (f": {where}" if where else ""), found=error.strerror)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return `"; did you mean X?"` for the closest known word, or an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
