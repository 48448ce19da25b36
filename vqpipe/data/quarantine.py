"""The quarantine table: what was left out of a source, and why. It is bounded; counts are of everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from vqpipe.artifacts.specs.dataset import QUARANTINE
from vqpipe.artifacts.tables import to_table
from vqpipe.data.records import Bad
from vqpipe.errors import printable

MAX_ROWS = 10_000
"""Rows of a quarantine table. A source of a million other files would make one as long as the dataset's."""
MAX_ITEM = 4096
"""Characters of a row's item that are kept, the longest path of a file system."""
MAX_DETAIL = 1000
"""Characters of a row's detail that are kept."""
LEFT_OUT = "rows_left_out"
"""The table's fact with the rows that it lacks, as split -> reason -> number; absent where it has all."""


def quarantine_table(bad: Sequence[tuple[str, Bad]]) -> tuple[pa.Table, dict[str, Any]]:
    """The table of (split, item) pairs, and its facts.

    Above `MAX_ROWS` each reason keeps as many of its first rows as every other one may; so a rare reason keeps all.
    """
    quota = _quota(Counter(entry.reason for _, entry in bad))
    rows: list[dict[str, str]] = []
    seen: Counter[str] = Counter()
    left_out: dict[str, Counter[str]] = {}
    for split, entry in bad:
        seen[entry.reason] += 1
        if seen[entry.reason] > quota:
            left_out.setdefault(split, Counter())[entry.reason] += 1
            continue
        item, detail = entry.item[:MAX_ITEM], printable(entry.detail)[:MAX_DETAIL]
        rows.append({"split": split, "item": item, "reason": entry.reason, "detail": detail})
    lacking = {split: dict(sorted(counts.items())) for split, counts in sorted(left_out.items())}
    return to_table(QUARANTINE, rows), {LEFT_OUT: lacking} if lacking else {}


def rows_left_out(facts: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """How many rows a table lacks, by (split, reason), from its facts."""
    return Counter(
        {
            (split, reason): count
            for split, counts in facts.get(LEFT_OUT, {}).items()
            for reason, count in counts.items()
        }
    )


def _quota(counts: Mapping[str, int]) -> int:
    """The most rows that each reason may have, so that all have `MAX_ROWS` at most."""
    left, quota = MAX_ROWS, MAX_ROWS
    ordered = sorted(counts.values())
    for at, count in enumerate(ordered):
        quota = left // (len(ordered) - at)
        if count > quota:
            return quota
        left -= count
    return MAX_ROWS
