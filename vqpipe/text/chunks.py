"""Captions in chunks over worker processes: the one map that `vocabulary` and `graph` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from vqpipe.runtime.shards import map_shards

R = TypeVar("R")

Chunk = list[tuple[str, str]]
"""(id, caption) pairs."""

CHUNK = 2_000
"""Captions in a chunk. It bounds memory; results do not depend on it."""
ALONE = 25
"""Up to this many chunks run in this process: starting workers would cost more than it gains."""


def map_captions(work: Callable[[Chunk], R], captions: Iterable[tuple[str, str]]) -> Iterator[R]:
    """Yield `work(chunk)` for consecutive chunks of captions, in order, whatever the number of workers.

    `work` must be a module-level function (or a `functools.partial` of one).
    """
    chunks = _chunks(captions)
    first = list(islice(chunks, ALONE + 1))
    if len(first) <= ALONE:
        yield from map(work, first)
        return
    yield from map_shards(work, chain(first, chunks))


def _chunks(captions: Iterable[tuple[str, str]]) -> Iterator[Chunk]:
    stream = iter(captions)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk
