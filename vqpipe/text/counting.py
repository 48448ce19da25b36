"""Counts of words and of adjective-noun pairs over captions: chunks in worker processes, merged in bounded memory."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.runtime.shards import map_shards
from vqpipe.text.pos import TAGGERS, tagger
from vqpipe.text.tagger import Analysis, PhraseParams, PosParams
from vqpipe.text.tokens import MAX_CHARACTERS, clean, tokenize
from vqpipe.text.usable import UNUSABLE_MARKS, is_other_language, is_other_script

R = TypeVar("R")

Chunk = list[tuple[str, str]]
"""(id, caption) pairs."""

CHUNK = 2_000
"""Captions in a chunk. It bounds memory; results do not depend on it."""

MARKS = ("empty", "control", "markup", "cut", "other_script", "other_language")
"""What can be odd about a caption. Each is counted, none stops the run by itself.

The first four are those of `vqpipe.text.tokens.clean`, the others of `vqpipe.text.usable`.
"""

WORDS = pa.schema({"is_noun": pa.bool_(), "word": pa.string(), "count": pa.int64()})
"""How often a word of a class occurs."""
PAIRS = pa.schema({"adjective": pa.string(), "noun": pa.string(), "count": pa.int64(), "id": pa.string()})
"""A row for each of a pair's first caption ids; the first of them has the count, the others 0."""
HASHES = pa.schema({"hash": pa.uint64(), "count": pa.int64()})
"""How often a caption, by its hash, occurs."""


class ChunkCounts(NamedTuple):
    """The words and pairs of a chunk."""

    words: pa.Table
    """Columns as `WORDS`."""
    pairs: pa.Table
    """Columns as `PAIRS`, by first appearance."""
    text: Counter[str]
    """Captions, tokens and `MARKS`."""
    hashes: pa.Array
    """Of each id with its caption, uint64."""
    examples: dict[str, str]
    """The first caption of each mark that makes it unusable."""


def count_captions(
    captions: Iterable[tuple[str, str]], pos: PosParams, phrases: PhraseParams
) -> Iterator[ChunkCounts]:
    """Count consecutive chunks of (id, caption) pairs, in order; equal for any engine and number of workers."""
    yield from map_captions(partial(count_chunk, pos=pos, phrases=phrases), captions, pos)


def map_captions(
    work: Callable[[Chunk], R], captions: Iterable[tuple[str, str]], pos: PosParams
) -> Iterator[R]:
    """Yield `work(chunk)` for consecutive chunks of captions, in order, for any engine and number of workers.

    Args:
        work: a module-level function, or a `functools.partial` of one.
        captions: (id, caption) pairs. A caption that is far too long is cut to what `clean` can keep of it.
        pos: the backend that `work` uses; it decides how much is worth a worker process.
    """
    backend = TAGGERS[pos.kind]
    chunks = _chunks(captions)
    first = list(islice(chunks, backend.max_chunks_alone + 1))
    if len(first) <= backend.max_chunks_alone:
        yield from map(work, first)
        return
    yield from map_shards(work, chain(first, chunks), backend.chunks_per_worker)


def _chunks(captions: Iterable[tuple[str, str]]) -> Iterator[Chunk]:
    stream = ((name, caption[: MAX_CHARACTERS + 1]) for name, caption in captions)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


def count_chunk(chunk: Chunk, pos: PosParams, phrases: PhraseParams) -> ChunkCounts:
    """Count the adjectives, the nouns in the singular, and the modifier pairs of a chunk."""
    text, marked = Counter[str](captions=len(chunk)), dict[str, str]()
    adjectives: list[str] = []
    nouns: list[str] = []
    pairs: dict[tuple[str, str], int] = {}
    ids_of: dict[tuple[str, str], list[str]] = {}
    analyses = _analysed(chunk, pos, phrases, text, marked)
    for (caption_id, _), analysis in zip(chunk, analyses, strict=True):
        text["tokens"] += len(analysis.words)
        for word, lemma, kind in analysis.words:
            if kind == "noun":
                nouns.append(lemma)
            elif kind == "adjective":
                adjectives.append(word)
        for pair in analysis.pair_words():
            pairs[pair] = pairs.get(pair, 0) + 1
            ids = ids_of.setdefault(pair, [])
            if len(ids) < NUM_EXAMPLES and caption_id not in ids:
                ids.append(caption_id)
    counts = [(is_noun, Counter(found)) for is_noun, found in ((False, adjectives), (True, nouns))]
    words = [(is_noun, word, times) for is_noun, count in counts for word, times in count.items()]
    rows = [
        (*pair, 0 if at else pairs[pair], caption_id)
        for pair, ids in ids_of.items()
        for at, caption_id in enumerate(ids)
    ]
    return ChunkCounts(_table(words, WORDS), _table(rows, PAIRS), text, _hashes(chunk), marked)


def _table(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def _analysed(
    chunk: Chunk, pos: PosParams, phrases: PhraseParams, text: Counter[str], examples: dict[str, str]
) -> Iterator[Analysis]:
    """Clean, split, tag and pair the captions, one analysis for each; marks go to `text` and `examples`."""

    def tokens() -> Iterator[list[str]]:
        for caption_id, caption in chunk:
            line, marks = clean(caption)
            split = tokenize(line)
            if is_other_script(line):
                marks = (*marks, "other_script")
            elif is_other_language(split):
                marks = (*marks, "other_language")
            if marks:
                text.update(marks)
                for mark in UNUSABLE_MARKS:
                    if mark in marks and mark not in examples:
                        examples[mark] = f"{caption_id}: {caption[:60]!r}"
            yield split

    return tagger(pos).analyse_tokens(tokens(), phrases)


def _hashes(chunk: Chunk) -> pa.Array:
    """64 bits of each (id, caption)."""
    digests = b"".join(
        hashlib.blake2b(f"{name}\0{caption}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for name, caption in chunk
    )
    return pa.Array.from_buffers(pa.uint64(), len(chunk), [None, pa.py_buffer(digests)])


MERGE_ROWS = 1 << 17
"""Rows of partial counts that may wait to be merged, or as many as are merged already where those are more."""
NUM_EXAMPLES = 3
"""Caption ids that a pair keeps, so that a user can ask why an edge exists."""
MAX_HASHES = 1 << 20
"""Distinct captions up to which repeats are counted exactly; above, they are estimated from a sample."""
MAX_PAIR_ROWS = 1 << 20
"""Rows of merged pairs that are kept in memory; above, they are put on disk until the vocabulary is known."""


class Merged:
    """A table that grows by partial tables.

    Partial tables wait in memory until they have `MERGE_ROWS` rows, or as many as the merged table; then they are
    merged into it. So the cost of a caption does not grow with their number, and memory is that of a few times the
    distinct rows. The result does not depend on when they are merged.

    Args:
        schema: the columns of the tables.
        merge: joins equal rows of tables that follow one another.
    """

    def __init__(self, schema: pa.Schema, merge: Callable[[pa.Table], pa.Table]) -> None:
        self._merge = merge
        self._merged = schema.empty_table()
        self._waiting: list[pa.Table] = []
        self._rows = 0

    @property
    def num_rows(self) -> int:
        """Rows of what is merged already."""
        return self._merged.num_rows

    def add(self, table: pa.Table) -> None:
        """Take in the counts of the next chunk."""
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= max(MERGE_ROWS, self._merged.num_rows):
            self.table()

    def table(self) -> pa.Table:
        """Everything that has been added, merged."""
        if self._waiting:
            self._merged = self._merge(pa.concat_tables([self._merged, *self._waiting]))
            self._waiting, self._rows = [], 0
        return self._merged


def merge_words(table: pa.Table) -> pa.Table:
    """Sum the counts of equal words of a class; columns as `WORDS`."""
    return _sums(table, ["is_noun", "word"]).cast(WORDS)


def merge_pairs(table: pa.Table) -> pa.Table:
    """Sum the counts of equal pairs and keep their first `NUM_EXAMPLES` distinct ids; columns as `PAIRS`."""
    listed = list_pairs(table)
    ids = listed["ids"].combine_chunks()
    rows = pc.list_parent_indices(ids)
    positions = pc.subtract(pa.array(np.arange(len(rows))), pc.take(_starts(ids), rows))
    counts = pc.if_else(pc.equal(positions, 0), pc.take(listed["count"], rows), 0)
    columns = [
        pc.take(listed["adjective"], rows),
        pc.take(listed["noun"], rows),
        counts,
        pc.list_flatten(ids),
    ]
    return pa.table(columns, schema=PAIRS)


def _starts(lists: pa.ListArray) -> pa.Array:
    """Where each list begins among the elements of all."""
    lengths = pc.cast(pc.list_value_length(lists), pa.int64())
    return pc.subtract(pc.cumulative_sum(lengths), lengths)


def list_pairs(table: pa.Table) -> pa.Table:
    """A row for each pair of a `PAIRS` table, by its first appearance: adjective, noun, count, list of ids."""
    placed = table.append_column("at", pa.array(np.arange(table.num_rows)))  # groups come in no order
    by_id = _grouped(placed, ["adjective", "noun", "id"], [("count", "sum"), ("at", "min")])
    by_id = by_id.rename_columns(["adjective", "noun", "id", "count", "at"]).sort_by("at")
    totals = [("count", "sum"), ("id", "list"), ("at", "min")]
    by_pair = _grouped(by_id, ["adjective", "noun"], totals).sort_by("at_min")
    ids = pc.list_slice(by_pair["id_list"], 0, NUM_EXAMPLES)
    return pa.table(
        [by_pair["adjective"], by_pair["noun"], by_pair["count_sum"], ids],
        names=["adjective", "noun", "count", "ids"],
    )


def _sums(table: pa.Table, keys: list[str]) -> pa.Table:
    """Sum the counts over equal keys."""
    return _grouped(table, keys, [("count", "sum")]).rename_columns([*keys, "count"])


def _grouped(table: pa.Table, keys: list[str], totals: list[tuple[str, str]]) -> pa.Table:
    """The keys and `NAME_FUNCTION` of each total, one row a group; in one thread, so that lists keep the order."""
    grouped = table.group_by(keys, use_threads=False).aggregate(totals)
    return grouped.select([*keys, *(f"{name}_{function}" for name, function in totals)])


class Pairs:
    """The pairs of many chunks, in memory that does not grow with the pairs of rare words.

    Which words the vocabulary keeps is known only after the last caption. Until then, whenever the merged pairs have
    more than `MAX_PAIR_ROWS` rows they are written to an unnamed file, and merging starts afresh; the
    result is the same.

    Args:
        scratch: gives the folder of such files when the first is needed; None: the folder for temporary files.
    """

    def __init__(self, scratch: Callable[[], Path] | None = None) -> None:
        self._scratch = scratch
        self._files: list[IO[bytes]] = []
        self._merged = Merged(PAIRS, merge_pairs)
        self.total = 0
        """How often a pair occurs, over all pairs."""

    def add(self, pairs: pa.Table) -> None:
        """Take in the pairs of the next chunk, columns as `PAIRS`."""
        self.total += pc.sum(pairs["count"]).as_py() or 0
        self._merged.add(pairs)
        if self._merged.num_rows > MAX_PAIR_ROWS:
            file = tempfile.TemporaryFile(dir=self._scratch() if self._scratch else None)  # noqa: SIM115
            with pa.ipc.new_stream(file, PAIRS) as stream:
                stream.write_table(self._merged.table())
            self._files.append(file)
            self._merged = Merged(PAIRS, merge_pairs)

    def between(self, adjectives: Iterable[str], nouns: Iterable[str]) -> pa.Table:
        """The pairs of these words by first appearance: adjective, noun, count, list of the first `NUM_EXAMPLES` ids.

        To be called once, after the last `add`.
        """
        known = {"adjective": pa.array(adjectives, pa.string()), "noun": pa.array(nouns, pa.string())}
        found = Merged(PAIRS, merge_pairs)

        def take(pairs: pa.Table) -> None:
            is_known = [pc.is_in(pairs[name], words) for name, words in known.items()]
            found.add(pairs.filter(pc.and_(*is_known)))

        for file in self._files:
            with file:
                file.seek(0)
                for batch in pa.ipc.open_stream(file):
                    take(pa.table(batch))
        take(self._merged.table())
        return list_pairs(found.table())


class Repeats:
    """How many captions occur again under the same id, from their hashes, in bounded memory.

    Exact up to `MAX_HASHES` distinct captions. Above, only hashes in a half, a quarter, … of their range are
    kept, and the number of repeats among them is scaled up: an unbiased estimate, the same for any order.
    """

    def __init__(self) -> None:
        self._level = 0
        self._hashes = Merged(HASHES, self._shrink)

    def add(self, hashes: pa.Array) -> None:
        """Take in the hashes (uint64) of the next captions."""
        self._hashes.add(pa.table([hashes, pa.array([1] * len(hashes), pa.int64())], schema=HASHES))

    def _shrink(self, table: pa.Table) -> pa.Table:
        table = _sums(self._sampled(table), ["hash"])
        while table.num_rows > MAX_HASHES:
            self._level += 1
            table = self._sampled(table)
        return table

    def _sampled(self, table: pa.Table) -> pa.Table:
        if self._level == 0:
            return table
        return table.filter(pc.less(table["hash"], pa.scalar(1 << (64 - self._level), pa.uint64())))

    def count(self) -> int:
        """Captions that came before under the same id."""
        table = self._hashes.table()
        return ((pc.sum(table["count"]).as_py() or 0) - table.num_rows) << self._level

    def is_exact(self) -> bool:
        """Whether `count` is exact."""
        self._hashes.table()
        return self._level == 0
