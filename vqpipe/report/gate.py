"""Deltas between two metrics files, and gates on them.

A gate names a metric and a bound on its change, B minus A: `tokenizer.lc.psnr<-0.2` is breached where the
PSNR fell by more than 0.2 dB, `prior.vq-gpt.bits_per_token>5%` where the bits rose by more than 5 % of A's.
"""

from __future__ import annotations

import json
import math
import operator
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqpipe.errors import ArtifactError, MismatchError, ParamsError, VqpipeError, did_you_mean

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_GATE = re.compile(r"\s*([^\s<>=%]+)\s*(<=|>=|<|>)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(%?)\s*")


@dataclass(frozen=True)
class Gate:
    """A bound on the change of one metric; `relative` bounds are in percent of A's absolute value."""

    text: str
    name: str
    relation: str
    bound: float
    relative: bool


@dataclass(frozen=True)
class Delta:
    """One metric of A and B; None where it is not in one of them."""

    name: str
    a: float | None
    b: float | None

    @property
    def absolute(self) -> float | None:
        """B minus A."""
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def percent(self) -> float | None:
        """B minus A in percent of the absolute value of A; infinite where A is zero and B is not."""
        if self.a is None or self.b is None:
            return None
        if self.a == 0:
            return 0.0 if self.b == 0 else math.copysign(math.inf, self.b)
        return 100 * (self.b - self.a) / abs(self.a)


def parse_gate(text: str) -> Gate:
    """Read `NAME<NUMBER`, with `<`, `<=`, `>` or `>=`, and `%` after the number for a relative bound.

    Raises:
        ParamsError: the text is of another form.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise ParamsError(
            "a gate is a metric's dotted name, a relation and a number",
            found=text,
            expected="for example tokenizer.lc.psnr<-0.2, or tokenizer.lc.psnr<-5%",
            choices=_OPERATORS,
        )
    name, relation, bound, percent = match.groups()
    return Gate(text.strip(), name, relation, float(bound), percent == "%")


def flatten(content: Any, prefix: str = "") -> dict[str, float]:
    """The finite numbers of nested JSON by dotted name, without the rest; list items get their index."""
    if isinstance(content, bool) or content is None or isinstance(content, str):
        return {}
    if isinstance(content, int | float):
        return {prefix: float(content)} if math.isfinite(content) else {}
    items = content.items() if isinstance(content, Mapping) else enumerate(content)
    flat: dict[str, float] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return dict(sorted(flat.items()))


def read_metrics(source: str, path: Path) -> dict[str, float]:
    """Flat metrics of a file, or of `path` as a git revision has it.

    Args:
        source: a JSON file, or else a git revision of the repository of the working directory.
        path: the metrics file within the revision, relative to the working directory.

    Raises:
        ArtifactError: neither a file nor a revision, no such file in the revision, or not a JSON object.
    """
    file = Path(source)
    text = file.read_bytes() if file.is_file() else _git_text(source, path)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ArtifactError(f"{source}: the metrics are not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{source}: the metrics are not a JSON object", found=type(content).__name__)
    return flatten(content)


def _git_text(revision: str, path: Path) -> str:
    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)

    try:
        known = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except FileNotFoundError as error:
        raise ArtifactError(f"{revision} is not a file, and git is not installed") from error
    if known.returncode != 0:
        raise ArtifactError(
            f"{revision} is neither a metrics file nor a git revision of this repository",
            expected="a JSON file, or a commit, branch or tag",
        )
    commit = known.stdout.strip()
    shown = git("show", f"{commit}:./{path.as_posix()}")
    if shown.returncode != 0:
        raise ArtifactError(
            f"revision {revision} has no {path}",
            expected="a metrics file that is kept in git",
            run="vqpipe compare --path FILE …",
        )
    return shown.stdout


def deltas(a: Mapping[str, float], b: Mapping[str, float]) -> list[Delta]:
    """One delta for each metric of A or B, sorted by name."""
    return [Delta(name, a.get(name), b.get(name)) for name in sorted({*a, *b})]


def breaches(gates: Sequence[Gate], changes: Sequence[Delta]) -> list[str]:
    """A sentence for each gate that is breached.

    Raises:
        ParamsError: a gate names a metric that neither side has.
        MismatchError: a gate names a metric that one side lacks, so that there is no change to judge.
    """
    by_name = {change.name: change for change in changes}
    told = []
    for gate in gates:
        if gate.name not in by_name:
            raise unknown_metric(gate, list(by_name))
        change = by_name[gate.name]
        value = change.percent if gate.relative else change.absolute
        if value is None:
            raise MismatchError(
                f"gate {gate.text}: {gate.name} has no change to judge",
                found=f"only in {'A' if change.b is None else 'B'}",
                expected="a number in both",
            )
        if _OPERATORS[gate.relation](value, gate.bound):
            unit = "%" if gate.relative else ""
            told.append(f"{gate.text}: {gate.name} went from {change.a:g} to {change.b:g} ({value:+g}{unit})")
    return told


def unknown_metric(gate: Gate, known: Sequence[str]) -> VqpipeError:
    """The error for a gate on a metric that is not there; it lists the neighbours of the name."""
    group = gate.name.rsplit(".", 1)[0] + "."
    near = [name for name in known if name.startswith(group)]
    groups = sorted({".".join(name.split(".")[:2]) for name in known})
    return ParamsError(
        f"gate {gate.text}: there is no metric {gate.name}{did_you_mean(gate.name, known)}",
        choices=near[:30] or groups[:30],
    )


def table(changes: Sequence[Delta], everything: bool = False) -> str:
    """A text table of the metrics that changed, or of all."""
    shown = [change for change in changes if everything or change.absolute != 0]
    rows = [("metric", "A", "B", "B - A", "percent")]
    rows += [
        (c.name, _number(c.a), _number(c.b), _number(c.absolute, "+"), _percent(c.percent)) for c in shown
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = []
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    hidden = len(changes) - len(shown)
    tail = [f"{hidden:,} metrics are equal in both"] if hidden else []
    return "\n".join([*(lines if shown else []), *tail])


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.6g}"


def _percent(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:+.2f}%"
