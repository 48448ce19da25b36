"""The boards of a folder: what each measured, the verdicts on its claims, and the names of its pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vqpipe.boards.claims import (
    NOT_REPRODUCED,
    NOT_RUN,
    NOT_TESTABLE,
    REPRODUCED,
    UNDECIDED,
    BoardClaims,
    BoardTable,
    Verdict,
    judge,
    read_claims,
)
from vqpipe.boards.results import Results, read_results
from vqpipe.errors import ParamsError
from vqpipe.params.base import merged

OUTCOMES = (REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_TESTABLE, NOT_RUN)
FIRST = "scenes"
"""The board whose rows have the first screen of the page."""
GENERATION = "generation"
"""The board whose rows have priors."""
GFD, SAMPLES = "gfd_clip", "prior.gpt-class.samples.fd_clip"
"""What another board's rows have of the board of generation's, and what it is there."""


@dataclass(frozen=True)
class Found:
    """One board."""

    name: str
    """Of its folder."""
    claims: BoardClaims
    results: Results

    @cached_property
    def verdicts(self) -> Mapping[str, Sequence[Verdict]]:
        """On the claims of each table, by its title."""
        return {
            table.title: [judge(claim, self.results) for claim in table.claims]
            for table in self.claims.tables
        }

    def page(self, table: BoardTable) -> str:
        """File of a table's page: of its title's words before a colon or comma, of all where tables share these."""
        starts = Counter(map(_start, self.claims.tables))
        start = _start(table)
        return f"{self.name}-{start if starts[start] == 1 else _words(table.title)}.md"


def _start(table: BoardTable) -> str:
    return _words(re.split("[:,]", table.title)[0])


def _words(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def read_boards(root: Path) -> list[Found]:
    """Every board under a folder with what it measured: `FIRST` first, then by title.

    Raises:
        ParamsError: there is none; and as `read_claims` and `read_results`.
    """
    folders = sorted(path.parent for path in root.glob("*/claims.yaml"))
    if not folders:
        raise ParamsError(
            f"there is no board under {root}",
            expected="a folder of boards, each a folder with claims.yaml and params.yaml",
        )
    found = [Found(folder.name, read_claims(folder), read_results(folder)) for folder in folders]
    by_name = {one.name: one for one in found}
    if GENERATION in by_name and FIRST in by_name:
        first, generated = by_name[FIRST], by_name[GENERATION]
        by_name[FIRST] = replace(first, results=with_samples(first.results, generated.results))
    return sorted(by_name.values(), key=lambda one: (one.name != FIRST, one.claims.title))


def with_samples(results: Results, generated: Results) -> Results:
    """A board's results with the FD-CLIP of samples of tokenizers that the board of generation trained alike.

    A row gets it, seed by seed, where its params are those of the other board's row of the same name. The tokenizer is
    another training of them, and the features may be of another fit of the CLIP.
    """
    first, second = results.board, generated.board
    alike = [
        row for row in results.metrics
        if row in second.rows and merged(first.common, first.rows[row]) == merged(second.common, second.rows[row])
    ]  # fmt: skip

    def runs(row: str) -> dict[int, Mapping[str, Any]]:
        samples = generated.metrics.get(row, {})
        return {
            seed: {**run, GFD: samples[seed][SAMPLES]} if SAMPLES in samples.get(seed, {}) else run
            for seed, run in results.metrics[row].items()
        }

    return replace(results, metrics={**results.metrics, **{row: runs(row) for row in alike}})
