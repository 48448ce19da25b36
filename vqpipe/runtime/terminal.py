"""What reaches a terminal: text without control characters, and a progress bar on long work.

File names, captions, categories and params come from elsewhere, and a terminal obeys what is in them. So tools and
stages print through `say`. The text of errors is made printable in `vqpipe.errors`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

from vqpipe.errors import printable


def harmless(text: str) -> str:
    """The text with control characters as backslash escapes; tabs and line feeds stay."""
    if text.isprintable():
        return text
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def say(text: str, err: bool = False, end: str = "\n") -> None:
    """Print text, made harmless, on standard output, or with `err` on standard error.

    Letters that the encoding of the output lacks, as ASCII's under `LC_ALL=C`, become backslash escapes.
    """
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "utf-8"
    shown = harmless(text).encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=stream, end=end, flush=True)


T = TypeVar("T")


class Bar(Protocol):
    """What a piece of long work moves on."""

    def advance(self, steps: int = 1, note: str = "") -> None: ...


class _Silent:
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Nothing to show."""


@contextmanager
def progress_bar(title: str, total: int | None = None) -> Iterator[Bar]:
    """A bar on standard error; `advance(steps, note)` moves it and shows a short note such as the current loss."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    ]  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(harmless(title), total=total, note="")

        class _Rich:
            def advance(self, steps: int = 1, note: str = "") -> None:
                shown.update(task, advance=steps, note=harmless(note))

        yield _Rich()


def track(items: Iterable[T], title: str) -> Iterator[T]:
    """Iterate under a progress bar, which has an end where the items have a length."""
    with progress_bar(title, len(items) if isinstance(items, Sized) else None) as bar:
        for item in items:
            yield item
            bar.advance()
