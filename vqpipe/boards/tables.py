"""The page of one table of a board, and that of the board: what was measured, its verdicts, what its rows cost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from vqpipe.boards.claims import BoardClaims, BoardTable, Verdict
from vqpipe.boards.columns import head, shown
from vqpipe.boards.costs import costs
from vqpipe.boards.found import OUTCOMES, Found
from vqpipe.boards.markdown import render
from vqpipe.boards.results import Results

BITS = "bits_per_image"
"""What every table shows next to K and seeds: the price of a row's numbers."""
DASH = "\N{EN DASH}"
MAX_NAMED = 12
"""Missing runs or rows that a page names before it counts the rest."""


def table_page(table: BoardTable, found: Found, home: str) -> str:
    """A table with its claims and verdicts, and a link to the first page."""
    heads, rows = _rows(table, found.results)
    verdicts = found.verdicts[table.title]
    return render(
        "table.md.j2", home=home, table=table, board=found, head=heads, rows=rows,
        gaps=_gaps(table, found.claims, found.results),
        departures=departures([row for _, row in table.rows], found.results),
        sentence=_sentence(verdicts),
        verdicts=[[one.claim.text, f"**{one.outcome}**", one.evidence] for one in verdicts],
    )  # fmt: skip


def board_page(found: Found, home: str) -> str:
    """What a board's rows were measured on, its tables with the outcomes of their claims, and what its rows cost."""
    return render(
        "board.md.j2", home=home, board=found, facts=facts(found), head=["table", *OUTCOMES],
        outcomes=outcomes(found, ""), costs=list(costs(found.results)) if found.results.metrics else [],
    )  # fmt: skip


def outcomes(found: Found, folder: str) -> list[list[str]]:
    """Each table of a board with a link and how many of its claims have each outcome.

    Args:
        folder: of the tables' pages, from the page with the links, with a slash; empty for the same folder.
    """
    rows = []
    for table in found.claims.tables:
        counts = Counter(verdict.outcome for verdict in found.verdicts[table.title])
        link = f"[{table.title}]({folder}{found.page(table)})"
        rows.append([link, *(str(counts[outcome] or "") for outcome in OUTCOMES)])
    return rows


def facts(found: Found) -> list[str]:
    """How many runs there are, what they were measured on, and which versions of the code made them."""
    results, claims = found.results, found.claims

    def one(name: str) -> str:
        return ", ".join(str(value) for value in results.distinct(name)) or "unknown"

    num_runs = sum(map(len, results.metrics.values()))
    number = results.board.protocol
    lines = []
    if num_runs:
        lines.append(
            f"{num_runs} of {len(results.board.runs)} runs, of {len(results.metrics)} of {len(results.board.rows)} "
            f"rows. Every row: {one('num_steps')} steps; measured on {one('num_images')} images of the {one('split')} "
            f"split (digest of their pixels: {one('measured.images.digest')}) at {one('resolution')} pixels, grid "
            f"{one('grid')}, features of {one('features')}, {_protocol(number, claims)}."
        )
        lines.append(_versions(results))
    else:
        lines.append(f"No row has been run under {_protocol(number, claims)}. Run: `{claims.run}`")
    if results.other:
        count = sum(map(len, results.other.values()))
        numbers = " and ".join(_protocol(old, claims) for old in sorted(results.other))
        lines.append(
            f"{count} run{'s' * (count != 1)} of {numbers} {'are' if count != 1 else 'is'} no result of this board, "
            f"which is now of protocol {number}, and not shown. To run again: `{claims.run}`."
        )
    if num_runs and (missing := results.missing()):
        lines.append(f"{_missing(results, missing)} Run: `{claims.run}`")
    return lines


def _missing(results: Results, names: Sequence[str]) -> str:
    """How many runs are missing: of rows that have none, and of the others by name."""
    lacking = [results.board.runs[name].row for name in names]
    none = list(dict.fromkeys(row for row in lacking if not results.metrics.get(row)))
    single = [name for name in names if results.board.runs[name].row not in none]
    parts = []
    if none:
        parts.append(f"all of {len(none)} row{'s' * (len(none) != 1)} ({_named(none)})")
    if single:
        parts.append(f"{len(single)} of rows that have others ({_named(single)})")
    return f"Missing: {len(names)} run{'s' * (len(names) != 1)}, {' and '.join(parts)}."


def _named(names: Sequence[str]) -> str:
    """Names, the first `MAX_NAMED` of a long list; `python -m stages.boards --dry` lists all."""
    if len(names) <= MAX_NAMED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} more"


def _versions(results: Results) -> str:
    shared = results.distinct("code_shared")
    lacking = sum("code_shared" not in run for own in results.metrics.values() for run in own.values())
    parts = []
    if shared:
        parts.append(
            f"The code that all rows share was of {len(shared)} version{'s' * (len(shared) != 1)}: {', '.join(shared)}."
        )
    if len(shared) > 1:
        parts.append(
            "Rows of different versions compare only as far as the changes between them left results alone."
        )
    if lacking:
        parts.append(f"{lacking} runs do not name it.")
    return " ".join(parts)


def _protocol(number: int, claims: BoardClaims) -> str:
    meaning = claims.protocols.get(number)
    return f"protocol {number}" + (f" ({meaning})" if meaning else "")


def _gaps(table: BoardTable, claims: BoardClaims, results: Results) -> str:
    """Which rows of a table were not run, or lack a number, and why."""
    rows = list(dict.fromkeys(row for _, row in table.rows))
    run = [row for row in rows if results.metrics.get(row)]
    parts = []
    if not_run := [f"`{row}`" for row in rows if row not in run]:
        parts.append(f"Not run yet: {', '.join(not_run)}. Run: `{claims.run}`.")
    lacking = {
        name: [row for row in run if results.estimate(row, name) is None] for name in (BITS, *table.metrics)
    }
    for is_own, reason in (
        (True, "trained without alignment, so without own heads"),
        (False, "not measured under the row's protocol"),
    ):
        names = dict.fromkeys(
            f"`{row}`" for name, own in lacking.items() if (".own." in name) == is_own for row in own
        )
        if names:
            parts.append(f"Dashes at {', '.join(names)}: {reason}.")
    return " ".join(parts)


def _sentence(found: Sequence[Verdict]) -> str:
    """Which claims this run reproduces and which it does not, in one paragraph."""
    parts = []
    for outcome in OUTCOMES:
        texts = [verdict.claim.text for verdict in found if verdict.outcome == outcome]
        if texts:
            parts.append(f"{outcome.capitalize()} ({len(texts)} of {len(found)}): {'; '.join(texts)}.")
    return " ".join(parts)


def departures(rows: Sequence[str], results: Results) -> str:
    """Which baselines are not what VQGAN-LC's own code runs, and in what; empty where none is."""
    found: dict[str, list[str]] = {}
    for row in dict.fromkeys(rows):
        if text := results.departure(row):
            found.setdefault(text, []).append(f"`{row}`")
    if not found:
        return ""
    return (
        "Not in the form of VQGAN-LC's own code: "
        + "; ".join(f"{', '.join(own)} ({text})" for text, own in found.items())
        + "."
    )


def _rows(table: BoardTable, results: Results) -> tuple[list[str], list[list[Any]]]:
    """Head and lines of a table, of the rows that were run: K, seeds and bits, then the table's own columns."""
    metrics = [name for name in table.metrics if name != BITS]
    heads = ["", "row", "K", "seeds", head(BITS), *(head(name) for name in metrics)]
    rows = []
    for label, row in table.rows:
        runs = results.metrics.get(row)
        if not runs:
            continue
        counts = sorted({str(run.get("num_codes", "")) for run in runs.values()})
        sizes = "; ".join(re.sub(r"\d+", lambda count: f"{int(count[0]):,}", one) for one in counts)
        bits = results.value(row, BITS)
        about = [sizes, str(len(runs)), DASH if bits is None else f"{bits:,.0f}"]
        found = [(name, results.estimate(row, name)) for name in metrics]
        cells = [DASH if value is None else shown(name, value) for name, value in found]
        rows.append([label, f"`{row}`", *about, *cells])
    if all(label == row for label, row in table.rows):
        heads, rows = heads[1:], [cells[1:] for cells in rows]
    return heads, rows
