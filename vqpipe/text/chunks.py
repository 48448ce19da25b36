"""Captions in chunks over worker processes: the one map that `vocabulary` and `graph` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from vqpipe.params.pos import PosParams
from vqpipe.runtime.shards import map_shards
from vqpipe.text.tokens import MAX_CHARACTERS

R = TypeVar("R")

Chunk = list[tuple[str, str]]
"""(id, caption) pairs."""

CHUNK = 2_000
"""Captions in a chunk. It bounds memory; results do not depend on it."""
ALONE = 25
"""Up to this many chunks the `wordnet` backend runs in this process: starting workers would cost more than it
gains."""
SLOW = 1
"""The same for the other backends, which need seconds for a chunk."""
CHUNKS_PER_WORKER = {"spacy": 50}
"""Backends that leave memory behind (spaCy keeps every new word), and how many chunks a worker lives for."""


def map_captions(
    work: Callable[[Chunk], R], captions: Iterable[tuple[str, str]], pos: PosParams
) -> Iterator[R]:
    """Yield `work(chunk)` for consecutive chunks of captions, in order, whatever the engine and the workers.

    Args:
        work: a module-level function, or a `functools.partial` of one.
        captions: (id, caption) pairs. Of a caption that is far too long only what `clean` can keep goes along.
        pos: the backend that `work` uses; it decides how much is worth a worker process.
    """
    alone = ALONE if pos.kind == "wordnet" else SLOW
    chunks = _chunks(captions)
    first = list(islice(chunks, alone + 1))
    if len(first) <= alone:
        yield from map(work, first)
        return
    yield from map_shards(work, chain(first, chunks), CHUNKS_PER_WORKER.get(pos.kind))


def _chunks(captions: Iterable[tuple[str, str]]) -> Iterator[Chunk]:
    stream = ((name, caption[: MAX_CHARACTERS + 1]) for name, caption in captions)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk
