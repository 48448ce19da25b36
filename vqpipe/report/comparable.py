"""Whether two runs measured alike: the records of images and protocol in their metrics, held against each other."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vqpipe.errors import MismatchError
from vqpipe.metrics.measured import MEASURED
from vqpipe.report.gate import Delta, Value, deltas, table

SIDES = ("images", "protocol")
DIGEST = "digest"
UNRELATED = "training."
"""Metrics of a tokenizer that its evaluation did not measure."""

Record = dict[str, dict[str, Value]]
"""The parts of `images` and `protocol` by dotted name, the digest among them."""


@dataclass(frozen=True)
class Difference:
    """What is not alike in some runs: `kind` is `images`, `protocol`, or `record` where one side has none."""

    kind: str
    runs: tuple[str, ...]
    parts: tuple[Delta, ...]


def records(metrics: Mapping[str, Value]) -> dict[str, Record]:
    """The records of flat metrics by the run that they are of, such as `tokenizer.lc`; "" for a file of one run."""
    found: dict[str, Record] = {}
    for name, value in metrics.items():
        words = name.split(".")
        for at, word in enumerate(words[:-2]):
            if word == MEASURED and words[at + 1] in SIDES:
                sides = found.setdefault(".".join(words[:at]), {side: {} for side in SIDES})
                sides[words[at + 1]][".".join(words[at + 2 :])] = value
                break
    return found


def differences(a: Mapping[str, Value], b: Mapping[str, Value]) -> list[Difference]:
    """What A and B did not measure alike, run by run; runs that differ in the same way are named together.

    A run that only one side has is not among them. A run of which one side has metrics and no record is.
    """
    first, second = records(a), records(b)
    found: dict[tuple[str, tuple[Delta, ...]], list[str]] = {}
    for run in sorted({*first, *second}):
        if run in first and run in second:
            for side in SIDES:
                one, other = first[run][side], second[run][side]
                if one.get(DIGEST) is None or one.get(DIGEST) != other.get(DIGEST):
                    parts = tuple(change for change in deltas(one, other) if change.changed)
                    found.setdefault((side, parts), []).append(run)
        elif _measures(a, run) and _measures(b, run):
            has: dict[bool, Value] = {True: "recorded", False: "not recorded"}
            parts = (Delta("images and protocol", has[run in first], has[run in second]),)
            found.setdefault(("record", parts), []).append(run)
    return [Difference(kind, tuple(runs), parts) for (kind, parts), runs in found.items()]


def told(found: Sequence[Difference]) -> str:
    """The differences in words, with the parts of both sides beside each other."""
    lines = []
    for difference in found:
        runs = ", ".join(run or "the run" for run in difference.runs)
        if difference.kind == "record":
            lines.append(f"{runs}: one side does not record what it measured; an earlier version made it")
        else:
            lines.append(
                f"{runs}: the {difference.kind} {'are' if difference.kind == 'images' else 'is'} not the same"
            )
        lines += [f"  {line}" for line in table(difference.parts, name="part").splitlines()]
    return "\n".join(lines)


def check_alike(
    a: Mapping[str, Value], b: Mapping[str, Value], sides: tuple[str, str], allow: bool
) -> str | None:
    """Refuse to compare runs that measured other images or under another protocol.

    Args:
        a, b: flat metrics.
        sides: what A and B are, for the message.
        allow: whether differences are a warning.

    Returns:
        The warning, or None where there is nothing to warn of. Metrics without a record on either side are one.

    Raises:
        MismatchError: runs that differ, and `allow` is False.
    """
    where = f"A is {sides[0]}, B is {sides[1]}"
    found = differences(a, b)
    if not found:
        if records(a) or records(b):
            return None
        return f"neither side records which images it measured, and how; they may differ ({where})"
    problem = [f"A and B did not measure alike ({where})", *told(found).splitlines()]
    if allow:
        return "\n".join(problem)
    raise MismatchError(
        problem,
        expected="the same images and the same protocol on both sides; measure one side again, or compare all the same",
        run=f"{shlex.join(['vqpipe', 'compare', *sides])} --allow-different",
    )


def _measures(metrics: Mapping[str, Value], run: str) -> bool:
    """Whether there are metrics of the run that an evaluation gives."""
    start = f"{run}." if run else ""
    return any(name.startswith(start) and not name.startswith(start + UNRELATED) for name in metrics)
