"""docs/boards.md: every board's tables with their claims and verdicts, then what the rows cost."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vqpipe.boards.claims import (
    NOT_REPRODUCED,
    NOT_RUN,
    NOT_TESTABLE,
    REPRODUCED,
    BoardClaims,
    BoardTable,
    Verdict,
    head,
    judge,
    read_claims,
    shown,
)
from vqpipe.boards.results import Results, read_results
from vqpipe.errors import ParamsError

OUTCOMES = (REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE, NOT_RUN)
GOAL = 1.35
"""Goal for the CPU time of an aligned step, as a multiple of the plain one's."""
MIB = 2.0**-20

Table = tuple[str, list[str], list[list[str]]]
"""What the table is, its head and its rows."""


def read_boards(root: Path) -> list[tuple[BoardClaims, Results]]:
    """Every board under a folder with what it measured, by title.

    Raises:
        ParamsError: there is none; and as `read_claims` and `read_results`.
    """
    folders = sorted(path.parent for path in root.glob("*/claims.yaml"))
    if not folders:
        raise ParamsError(
            f"there is no board under {root}",
            expected="folders with claims.yaml and params.yaml",
            run="vqpipe boards --folder boards",
        )
    found = [(read_claims(folder), read_results(folder)) for folder in folders]
    return sorted(found, key=lambda one: one[0].title)


def boards_page(found: Sequence[tuple[BoardClaims, Results]]) -> str:
    """The page as Markdown text, from the rows that are there."""
    environment = Environment(
        loader=PackageLoader("vqpipe.boards", "templates"),
        autoescape=False,  # Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.globals["table"] = markdown
    template = environment.get_template("boards.md.j2")
    text = template.render(
        outcomes=list(OUTCOMES), boards=[_board(claims, results) for claims, results in found]
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _board(claims: BoardClaims, results: Results) -> dict[str, Any]:
    if not results.metrics:
        return {"claims": claims, "facts": []}
    verdicts = {table.title: [judge(claim, results) for claim in table.claims] for table in claims.tables}
    return {
        "claims": claims, "facts": _facts(results, claims), "summary": _summary(verdicts),
        "tables": [_table(table, verdicts[table.title], claims, results) for table in claims.tables],
        "costs": list(costs(results)),
    }  # fmt: skip


def _table(
    table: BoardTable, verdicts: Sequence[Verdict], claims: BoardClaims, results: Results
) -> dict[str, Any]:
    heads, rows = _rows(table, results)
    return {
        "table": table, "head": heads, "rows": rows, "gaps": _gaps(table, claims, results),
        "departures": _departures(table, results) if rows else "",
        "sentence": _sentence(verdicts),
        "verdicts": [[one.claim.text, f"**{one.outcome}**", one.evidence] for one in verdicts],
    }  # fmt: skip


def _facts(results: Results, claims: BoardClaims) -> list[str]:
    def one(name: str) -> str:
        return ", ".join(str(value) for value in results.distinct(name)) or "unknown"

    num_runs = sum(map(len, results.metrics.values()))
    codes, missing, other = results.distinct("code"), results.missing(), results.of_other_protocols()
    lines = [
        f"{num_runs} of {len(results.board.runs)} runs of {len(results.board.rows)} rows. Every row: "
        f"{one('num_steps')} steps; measured on {one('num_images')} images of the {one('split')} split at "
        f"{one('resolution')} pixels, grid {one('grid')}, "
        f"features of {one('features')}, protocol {one('protocol')}.",
        f"The numbers were made by {len(codes)} version{'s' * (len(codes) != 1)} of the code: {one('code')}."
        + (" Rows of different versions compare only as far as the changes between them left results alone."
           if len(codes) > 1 else ""),
    ]  # fmt: skip
    if other:
        lines.append(
            " ".join(
                f"Of {_protocol(number, claims)}: {'all runs' if len(runs) == num_runs else ', '.join(runs)}."
                for number, runs in sorted(other.items())
            )
            + f" The board is now of {_protocol(results.board.protocol, claims)}. Compare rows of one protocol only. "
            f"To run the older rows again: `{claims.run}`."
        )
    if missing:
        lines.append(f"Missing runs: {', '.join(missing)}. Run: `{claims.run}`")
    return lines


def _protocol(number: int, claims: BoardClaims) -> str:
    meaning = claims.protocols.get(number)
    return f"protocol {number}" + (f" ({meaning})" if meaning else "")


def _gaps(table: BoardTable, claims: BoardClaims, results: Results) -> str:
    """Which rows of a table are of another protocol, were not run, or lack a number, and why."""
    rows = list(dict.fromkeys(row for _, row in table.rows))
    run = [row for row in rows if results.metrics.get(row)]
    num_runs = sum(len(results.metrics[row]) for row in run)
    parts = [
        f"{'All rows are' if len(runs) == num_runs else ', '.join(runs)} of {_protocol(number, claims)}."
        for number, runs in sorted(results.of_other_protocols(rows).items())
    ]
    if not_run := [f"`{row}`" for row in rows if row not in run]:
        parts.append(f"Missing, since no run of it is here: {', '.join(not_run)}. Run: `{claims.run}`.")
    lacking = {name: [row for row in run if results.estimate(row, name) is None] for name in table.metrics}
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


def _summary(verdicts: Mapping[str, Sequence[Verdict]]) -> list[list[str]]:
    rows = []
    for title, found in verdicts.items():
        if found:
            counts = Counter(verdict.outcome for verdict in found)
            rows.append([title, *(str(counts[outcome] or "") for outcome in OUTCOMES)])
    return rows


def _sentence(found: Sequence[Verdict]) -> str:
    """Which claims this run reproduces and which it does not, in one paragraph."""
    parts = []
    for outcome in OUTCOMES:
        texts = [verdict.claim.text for verdict in found if verdict.outcome == outcome]
        if texts:
            parts.append(f"{outcome.capitalize()} ({len(texts)} of {len(found)}): {'; '.join(texts)}.")
    return " ".join(parts)


def _departures(table: BoardTable, results: Results) -> str:
    """Which baselines of a table are not what VQGAN-LC's own code runs, and in what."""
    rows: dict[str, list[str]] = {}
    for row in dict.fromkeys(row for _, row in table.rows):
        if text := results.departure(row):
            rows.setdefault(text, []).append(f"`{row}`")
    if not rows:
        return ""
    return (
        "Not in the form of VQGAN-LC's own code: "
        + "; ".join(f"{', '.join(own)} ({text})" for text, own in rows.items())
        + "."
    )


def _rows(table: BoardTable, results: Results) -> tuple[list[str], list[list[str]]]:
    heads = ["", "row", "K", "seeds", *(head(name) for name in table.metrics)]
    rows = []
    for label, row in table.rows:
        runs = results.metrics.get(row, {})
        sizes = ", ".join(sorted({str(run.get("num_codes", "")) for run in runs.values()}))
        found = {name: results.estimate(row, name) for name in table.metrics}
        cells = [
            "\N{EN DASH}" if runs and value is None else shown(name, value) for name, value in found.items()
        ]
        rows.append([label, f"`{row}`", sizes or "missing", str(len(runs) or "missing"), *cells])
    if all(label == row for label, row in table.rows):
        heads, rows = heads[1:], [cells[1:] for cells in rows]
    return heads, rows


COLUMNS = (
    ("CPU ms / step", "cpu_seconds_per_step", 1e3, 1), ("ms / step", "seconds_per_step", 1e3, 1),
    ("peak memory, MiB", "peak_memory_bytes", MIB, 0), ("of the training, MiB", "training_memory_bytes", MIB, 0),
    ("evaluation, CPU s", "evaluate_cpu_seconds", 1.0, 1), ("tasks, CPU s", "task_cpu_seconds", 1.0, 1),
    ("encoder", "parameters.encoder", 1.0, 0), ("quantizer", "parameters.quantizer", 1.0, 0),
    ("decoder", "parameters.decoder", 1.0, 0), ("aligner", "parameters.aligner", 1.0, 0),
)  # fmt: skip
LATER = {"training_memory_bytes": "missing", "task_cpu_seconds": "missing", "parameters.aligner": "0"}
"""Columns that are left out where no row has them, and what is shown for a row that has none."""
ABOUT_MEMORY = (
    "Memory of the training is its peak over what the process used before it: weights, moments and averages, images "
    "and captions, activations, without libraries and CLIP."
)


def costs(results: Results) -> Iterator[Table]:
    """Means over seeds; processor time is all threads', so that other work on the machine hardly changes it."""
    found = [
        entry
        for entry in COLUMNS
        if entry[1] not in LATER
        or any(cost.get(entry[1]) is not None for own in results.costs.values() for cost in own.values())
    ]
    rows = []
    for row in results.board.rows:
        if row in results.costs:
            cells = []
            for _, name, scale, digits in found:
                value = results.mean_cost(row, name)
                lacks = LATER.get(name, "missing")
                cells.append(lacks if value is None else f"{value * scale:,.{digits}f}")
            rows.append([f"`{row}`", *cells])
    devices = sorted({str(cost.get("device")) for own in results.costs.values() for cost in own.values()})
    about = (
        f"Measured while the rows ran ({', '.join(devices)}, one thread a row on the CPU, several rows at a time). "
        "Wall time includes the other rows' work; peak memory is that of the process up to the end of the training."
    )
    if any(name == "training_memory_bytes" for _, name, *_ in found):
        about = f"{about} {ABOUT_MEMORY}"
    yield about, ["row", *(label for label, *_ in found)], rows
    plain_rows = [
        (row, plain) for row in results.board.rows if (plain := results.board.plain(row)) is not None
    ]
    if plain_rows:
        yield _aligned(results, plain_rows)


def _aligned(results: Results, plain_rows: Sequence[tuple[str, str]]) -> Table:
    """Ratios of aligned rows to their plain ones, of runs of one seed."""
    about = (
        "What alignment adds: each row next to the same row without alignment. Mean and, in brackets, range over the "
        f"seeds of the ratio of two runs of one seed; the goal is a step of at most {GOAL:g} times the plain one's CPU "
        "time. CPU time still depends on what else the caches serve, and memory on what the allocator keeps, so take "
        "both as measured to some hundredths."
    )
    time, memory, peak = "cpu_seconds_per_step", "training_memory_bytes", "peak_memory_bytes"
    rows = []
    for row, plain in plain_rows:
        step = ratios(results, row, plain, time)
        cells = [
            *(_mean(results, name, time, 1e3, 1) for name in (row, plain)), _ratio(step), _within(step),
            *(_mean(results, name, memory, MIB, 0) for name in (row, plain)),
            _ratio(ratios(results, row, plain, memory)), _ratio(ratios(results, row, plain, peak)),
        ]  # fmt: skip
        rows.append([f"`{row}`", f"`{plain}`", *cells])
    heads = [
        "row", "without", "CPU ms / step", "plain", "ratio", "within the goal", "memory of the training, MiB", "plain",
        "ratio", "ratio of the process's peaks",
    ]  # fmt: skip
    return about, heads, rows


def ratios(results: Results, row: str, plain: str, name: str) -> list[float]:
    """A cost of a row over that of another, for each seed that measured both, in the seeds' order."""
    ours, theirs = results.costs.get(row, {}), results.costs.get(plain, {})
    both = [
        (ours[seed][name], theirs[seed][name])
        for seed in sorted(set(ours) & set(theirs))
        if ours[seed].get(name) is not None and theirs[seed].get(name)
    ]
    return [float(one) / float(other) for one, other in both]


def _ratio(values: Sequence[float]) -> str:
    if not values:
        return "missing"
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} [{min(values):.2f}, {max(values):.2f}]" if len(values) > 1 else mean


def _within(values: Sequence[float]) -> str:
    return "missing" if not values else "yes" if statistics.fmean(values) <= GOAL else "no"


def _mean(results: Results, row: str, name: str, scale: float, digits: int) -> str:
    value = results.mean_cost(row, name)
    return "missing" if value is None else f"{value * scale:,.{digits}f}"
