"""What the rows of a board cost: time, memory and parameters, and what alignment adds to them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from vqpipe.boards.results import Results

GOAL = 1.35
"""Goal for the CPU time of an aligned step, as a multiple of the plain one's."""
MIB = 2.0**-20

Table = tuple[str, list[str], list[list[str]]]
"""What the table is, its head and its rows."""

COLUMNS = (
    ("CPU ms / step", "cpu_seconds_per_step", 1e3, 1), ("ms / step", "seconds_per_step", 1e3, 1),
    ("peak memory, MiB", "peak_memory_bytes", MIB, 0), ("of the training, MiB", "training_memory_bytes", MIB, 0),
    ("encode, CPU ms / image", "encode_cpu_seconds_per_image", 1e3, 2),
    ("decode, CPU ms / image", "decode_cpu_seconds_per_image", 1e3, 2),
    ("encode, ms / image", "encode_seconds_per_image", 1e3, 2),
    ("decode, ms / image", "decode_seconds_per_image", 1e3, 2),
    ("both, MiB", "inference_memory_bytes", MIB, 0),
    ("evaluation, CPU s", "evaluate_cpu_seconds", 1.0, 1), ("tasks, CPU s", "task_cpu_seconds", 1.0, 1),
    ("encoder", "parameters.encoder", 1.0, 0), ("quantizer", "parameters.quantizer", 1.0, 0),
    ("decoder", "parameters.decoder", 1.0, 0), ("aligner", "parameters.aligner", 1.0, 0),
)  # fmt: skip
LATER = {
    "training_memory_bytes": "missing", "task_cpu_seconds": "missing", "parameters.aligner": "0",
    "encode_cpu_seconds_per_image": "missing", "decode_cpu_seconds_per_image": "missing",
    "encode_seconds_per_image": "missing", "decode_seconds_per_image": "missing", "inference_memory_bytes": "missing",
}  # fmt: skip
"""Columns that are left out where no row has them, and what is shown for a row that has none."""
ABOUT_MEMORY = (
    "Memory of the training is its peak over what the process used before it: weights, moments and averages, images "
    "and captions, activations, without libraries and CLIP."
)


ABOUT_SPEED = (
    "Encoding and decoding are those of one batch with the weights that are measured, the median of several passes; "
    "memory of both is the peak over what was in use before."
)


def costs(results: Results) -> Iterator[Table]:
    """Means over seeds; processor time is all threads', so that other work on the machine hardly changes it. Nothing
    where no run's cost is there."""
    if not results.costs:
        return
    found = [
        entry
        for entry in COLUMNS
        if entry[1] not in LATER
        or any(cost.get(entry[1]) is not None for own in results.costs.values() for cost in own.values())
    ]
    rows = [
        [f"`{row}`", *(_mean(results, row, name, scale, digits) for _, name, scale, digits in found)]
        for row in results.board.rows
        if row in results.costs
    ]
    devices = sorted({str(cost.get("device")) for own in results.costs.values() for cost in own.values()})
    about = (
        f"Measured while the rows ran ({', '.join(devices)}, one thread a row on the CPU, several rows at a time). "
        "Wall time includes the other rows' work; peak memory is that of the process up to the end of the training."
    )
    if any(name == "training_memory_bytes" for _, name, *_ in found):
        about = f"{about} {ABOUT_MEMORY}"
    if any(name == "encode_seconds_per_image" for _, name, *_ in found):
        about = f"{about} {ABOUT_SPEED}"
    yield about, ["row", *(label for label, *_ in found)], rows
    plain_rows = [
        (row, plain)
        for row in results.board.rows
        if (plain := results.board.plain(row)) is not None and {row, plain} <= results.costs.keys()
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
    return LATER.get(name, "missing") if value is None else f"{value * scale:,.{digits}f}"
