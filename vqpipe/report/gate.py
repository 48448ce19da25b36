"""Gates: what changed between two metrics files, whether they were measured alike, and which limits are broken.

A gate names a metric and a bound on its change, B minus A: `tokenizer.lc.psnr<-0.2` is breached where the
PSNR fell by more than 0.2 dB, `prior.vq-gpt.bits_per_token>5%` where the bits rose by more than 5 % of A's,
`clip.id!=` where the text or the number is another.
"""

from __future__ import annotations

import math
import operator
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vqpipe.artifacts.seal import parse_sealed
from vqpipe.errors import ArtifactError, MismatchError, ParamsError, VqpipeError, did_you_mean
from vqpipe.metrics.measured import MEASURED
from vqpipe.params.leaves import leaves

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_GATE = re.compile(
    r"\s*([^\s<>=!%]+)\s*(?:(!=)|(<=|>=|<|>)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(%?))\s*"
)
CHANGED = "!="
"""The relation of a gate that any change breaches."""

Value = float | str
"""A metric: a finite number, or text."""


@dataclass(frozen=True)
class Gate:
    """A bound on the change of one metric; `relative` bounds are in percent of A's absolute value. With the
    relation `!=` there is no bound: any change breaches it."""

    text: str
    name: str
    relation: str
    bound: float
    relative: bool


@dataclass(frozen=True)
class Delta:
    """One metric of A and B; None where it is not in one of them."""

    name: str
    a: Value | None
    b: Value | None

    @property
    def changed(self) -> bool:
        """Whether A and B differ, or only one of them has it."""
        return self.a != self.b

    @property
    def absolute(self) -> float | None:
        """B minus A; None for text."""
        return self.b - self.a if isinstance(self.a, float) and isinstance(self.b, float) else None

    @property
    def percent(self) -> float | None:
        """B minus A in percent of the absolute value of A; infinite where A is zero and B is not; None for text."""
        if not (isinstance(self.a, float) and isinstance(self.b, float)):
            return None
        if self.a == 0:
            return 0.0 if self.b == 0 else math.copysign(math.inf, self.b)
        return 100 * (self.b - self.a) / abs(self.a)


def parse_gate(text: str) -> Gate:
    """Read `NAME<NUMBER`, with `<`, `<=`, `>` or `>=`, and `%` after the number for a relative bound; or `NAME!=`.

    Raises:
        ParamsError: the text is of another form.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise ParamsError(
            "a gate is a metric's dotted name, a relation and a number",
            found=text,
            expected="for example tokenizer.lc.psnr<-0.2, tokenizer.lc.psnr<-5%, or clip.id!= for any change",
            choices=[*_OPERATORS, CHANGED],
        )
    name, changed, relation, bound, percent = match.groups()
    return Gate(text.strip(), name, changed or relation, float(bound or 0), percent == "%")


def flatten(content: Any) -> dict[str, Value]:
    """The finite numbers and the text of nested JSON by dotted name; list items get their index.

    `true` and `false` are text; null and numbers that are not finite are left out.
    """
    flat: dict[str, Value] = {}
    for path, value in leaves(content, lists=True):
        if isinstance(value, bool | str):
            flat[".".join(path)] = value if isinstance(value, str) else str(value).lower()
        elif value is not None:
            with suppress(OverflowError):  # an integer beyond the range of float
                if math.isfinite(number := float(value)):
                    flat[".".join(path)] = number
    return dict(sorted(flat.items()))


def read_metrics(source: str, path: Path) -> dict[str, Value]:
    """Flat metrics of a file, or of `path` as a git revision has it.

    Args:
        source: a JSON file, or else a git revision of the repository of the working directory.
        path: the metrics file within the revision, relative to the working directory.

    Raises:
        ArtifactError: neither a file nor a revision, no such file in the revision, not a JSON object, or a damaged
            file.
    """
    file = Path(source)
    try:
        text = file.read_bytes() if file.is_file() else _git_text(source, path).encode()
    except OSError as error:
        raise ArtifactError(f"{source} cannot be read ({error.strerror})") from error
    return flatten(parse_sealed(text, source, required=False)[0])


def _git_text(revision: str, path: Path) -> str:
    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)

    try:
        known = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        commits = known.stdout.split()
        if revision and not commits:  # DVC's refs of experiments end with their names
            commits = git(
                "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{revision}"
            ).stdout.split()
    except FileNotFoundError as error:
        raise ArtifactError(f"{revision} is not a file, and git is not installed") from error
    if len(commits) != 1:
        raise ArtifactError(
            f"{revision} is neither a metrics file nor a git revision of this repository",
            expected="a JSON file, or a commit, branch, tag or name of one experiment of DVC",
        )
    commit = commits[0]
    shown = git("show", f"{commit}:./{path.as_posix()}")
    if shown.returncode != 0:
        raise ArtifactError(
            f"revision {revision} has no {path}",
            expected="a metrics file that is kept in git",
            run="vqpipe compare --path FILE …",
        )
    return shown.stdout


def deltas(a: Mapping[str, Value], b: Mapping[str, Value]) -> list[Delta]:
    """One delta for each metric of A or B, sorted by name."""
    return [Delta(name, a.get(name), b.get(name)) for name in sorted({*a, *b})]


def breaches(gates: Sequence[Gate], changes: Sequence[Delta]) -> list[str]:
    """A sentence for each gate that is breached.

    Raises:
        ParamsError: a gate names a metric that neither side has.
        MismatchError: a gate names a metric that one side lacks, or bounds one that is text, so that there is no
            change to judge.
    """
    by_name = {change.name: change for change in changes}
    found = []
    for gate in gates:
        if gate.name not in by_name:
            raise unknown_metric(gate, list(by_name))
        change = by_name[gate.name]
        value = change.percent if gate.relative else change.absolute
        if change.a is None or change.b is None:
            raise MismatchError(
                f"gate {gate.text}: {gate.name} has no change to judge",
                found=f"only in {'A' if change.b is None else 'B'}",
                expected="a number in both",
            )
        if gate.relation == CHANGED:
            if change.changed:
                found.append(f"{gate.text}: {gate.name} went from {_cell(change.a)} to {_cell(change.b)}")
            continue
        if value is None:
            raise MismatchError(
                f"gate {gate.text}: {gate.name} is text, which a bound cannot judge",
                found=f"{_cell(change.a)} in A, {_cell(change.b)} in B",
                expected=f"a number in both, or the gate {gate.name}{CHANGED} for any change",
            )
        if _OPERATORS[gate.relation](value, gate.bound):
            unit = "%" if gate.relative else ""
            found.append(
                f"{gate.text}: {gate.name} went from {_cell(change.a)} to {_cell(change.b)} ({value:+g}{unit})"
            )
    return found


def unknown_metric(gate: Gate, known: Sequence[str]) -> VqpipeError:
    """The error for a gate on a metric that is not there; it lists the neighbours of the name."""
    group = gate.name.rsplit(".", 1)[0] + "."
    near = [name for name in known if name.startswith(group)]
    groups = sorted({".".join(name.split(".")[:2]) for name in known})
    return ParamsError(
        f"gate {gate.text}: there is no metric {gate.name}{did_you_mean(gate.name, known)}",
        choices=near[:30] or groups[:30],
    )


def table(changes: Sequence[Delta], everything: bool = False, name: str = "metric") -> str:
    """A text table of the metrics that changed, or of all, and how many are equal or only on one side."""
    shown = [change for change in changes if everything or change.changed]
    rows = [(name, "A", "B", "B - A", "percent")]
    rows += [(c.name, _cell(c.a), _cell(c.b), _cell(c.absolute, "+"), _percent(c.percent)) for c in shown]
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
    for side, lost in (
        ("A", [c for c in changes if c.b is None]),
        ("B", [c for c in changes if c.a is None]),
    ):
        if lost:
            tail.append(f"only in {side}: {len(lost):,} metrics, such as {lost[0].name}")
    return "\n".join([*(lines if shown else []), *tail])


def _cell(value: Value | None, sign: str = "") -> str:
    if value is None:
        return "-"
    return " ".join(value.split()) if isinstance(value, str) else f"{value:{sign}.6g}"


def _percent(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:+.2f}%"


Side = Literal["images", "protocol"]
SIDES: tuple[Side, ...] = ("images", "protocol")
"""What `Measured` records of an evaluation: the images, and how they were measured."""
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


def described(found: Sequence[Difference]) -> str:
    """The differences in words, with the parts of both sides next to each other."""
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


def unlike(a: Mapping[str, Value], b: Mapping[str, Value], sides: tuple[str, str]) -> tuple[str | None, bool]:
    """What speaks against a comparison of two runs, and whether they measured other images or under another protocol.

    Args:
        a, b: flat metrics.
        sides: what A and B are, for the text.

    Returns:
        The text, None where nothing does; runs that record nothing may differ, and only the text says so.
    """
    where = f"A is {sides[0]}, B is {sides[1]}"
    found = differences(a, b)
    if found:
        return f"A and B did not measure alike ({where})\n{described(found)}", True
    if records(a) or records(b):
        return None, False
    return f"neither side records which images it measured, and how; they may differ ({where})", False


def _measures(metrics: Mapping[str, Value], run: str) -> bool:
    """Whether there are metrics of the run that an evaluation gives."""
    start = f"{run}." if run else ""
    return any(name.startswith(start) and not name.startswith(start + UNRELATED) for name in metrics)
