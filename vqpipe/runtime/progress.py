"""A progress bar on long work: rich on a terminal, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

from vqpipe.runtime.terminal import harmless

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


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Iterate under a progress bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress_bar(title, total) as bar:
        for item in items:
            yield item
            bar.advance()
