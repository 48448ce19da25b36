"""Partial counts of many chunks merged into one table, with memory bounded by what is distinct in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MERGE_ROWS = 1 << 17
"""Rows of partial counts that may wait to be merged, or as many as are merged already where those are more."""
NUM_EXAMPLES = 3
"""Caption ids that a pair keeps, so that a user can ask why an edge exists."""
MAX_HASHES = 1 << 20
"""Distinct captions up to which repeats are counted exactly; above, they are estimated from a sample."""

WORDS = pa.schema({"is_noun": pa.bool_(), "word": pa.string(), "count": pa.int64()})
"""How often a word of a class is said."""
PAIRS = pa.schema({"adjective": pa.string(), "noun": pa.string(), "count": pa.int64(), "id": pa.string()})
"""A row for each of a pair's first caption ids; the first of them has the count, the others 0."""
HASHES = pa.schema({"hash": pa.uint64(), "count": pa.int64()})
"""How often a caption, by its hash, comes."""


class Merged:
    """A table that grows by partial tables.

    Partial tables are held in memory until they have `MERGE_ROWS` rows, or as many as the merged table; then
    they are merged into it. So a caption costs the same however many there are, and memory is that of a few
    times the distinct rows. The result does not depend on when they are merged.

    Args:
        schema: the columns of the tables.
        merge: joins equal rows of several tables that lie one after the other.
    """

    def __init__(self, schema: pa.Schema, merge: Callable[[pa.Table], pa.Table]) -> None:
        self._merge = merge
        self._merged = schema.empty_table()
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        """Take in the counts of the next chunk."""
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= max(MERGE_ROWS, self._merged.num_rows):
            self.table()

    def table(self) -> pa.Table:
        """All that has been added, merged."""
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


class Repeats:
    """How many captions come again under the same id, from their hashes, in bounded memory.

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
        """Whether `count` is no estimate."""
        self._hashes.table()
        return self._level == 0
