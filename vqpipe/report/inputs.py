"""What the report reads under one root: metrics, curves and sidecars, each of which may be absent."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqpipe.artifacts.lineage import Lineage, misfit, need_own_lineage
from vqpipe.artifacts.publish import MANIFEST, tree_digest
from vqpipe.artifacts.seal import parse_sealed
from vqpipe.artifacts.show import read_cost
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.params.base import read_yaml
from vqpipe.params.names import check_names

Curve = dict[str, list[float]]
"""Columns of a curves file by name, `step` among them; empty cells are NaN."""

Metrics = dict[str, Any]

_COST_KEYS = ("stage", "seconds", "peak_memory_bytes", "cpu_seconds", "cores", "output")


@dataclass(frozen=True)
class Cost:
    """What one output cost; None where it was not measured for the content that lies here.

    `further` holds what a stage measured besides, such as tokens per second.
    """

    output: str
    seconds: float | None
    peak_memory_bytes: float | None
    cores: int | None
    further: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """Everything the sections draw on. Mappings of variants and pairs follow the order of the params file."""

    root: Path
    params: dict[str, Any]
    stages: dict[str, Metrics] = field(default_factory=dict)
    tokenizer: dict[str, Metrics] = field(default_factory=dict)
    evaluate: dict[str, Metrics] = field(default_factory=dict)
    prior: dict[str, Metrics] = field(default_factory=dict)
    read: dict[str, Metrics] = field(default_factory=dict)
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    outputs: tuple[Path, ...] = ()
    """Where the stages' artifacts lie, whether or not they are there."""
    costs: tuple[Cost, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)
    strays: tuple[str, ...] = ()

    @property
    def variants(self) -> list[str]:
        """The tokenizers that the params file names, in its order."""
        return _names(self.params, "tokenizer", "variants")

    @property
    def pairs(self) -> list[str]:
        """The priors that the params file names, in its order."""
        return _names(self.params, "prior", "pairs")

    @property
    def readings(self) -> list[str]:
        """The readings that the params file names, in its order."""
        return _names(self.params, "read", "variants")

    def folder(self, *parts: str) -> Path:
        """A folder under the root, whether or not it is there."""
        return self.root.joinpath(*parts)


def read_inputs(root: Path, params: Path) -> Inputs:
    """Read all that is small; pictures and tables are read by the sections that show them.

    Raises:
        ParamsError: no params file, or one with an entry whose name cannot be a file's.
        ArtifactError: no such root, or a metrics, curves or sidecar file that is there but is damaged.
        MismatchError: an artifact that was made from another version of one that is there, or metrics or curves that
            are not of the artifact that is there.
    """
    tree = read_yaml(params)
    check_names(tree, params.name)
    if not root.is_dir():
        raise ArtifactError(f"there is no artifacts folder {root}", run="dvc repro")
    variants, pairs = _names(tree, "tokenizer", "variants"), _names(tree, "prior", "pairs")
    readings = _names(tree, "read", "variants")
    metrics = root / "metrics"
    named = {"tokenizer": variants, "evaluate": variants, "prior": pairs, "read": readings}
    read = {group: _read_all(metrics / group, names) for group, names in named.items()}
    strays = [
        f"{group} {path.stem}"
        for group, names in named.items()
        for path in sorted((metrics / group).glob("*.json"))
        if path.stem not in names
    ]
    own = {path.stem: read_json(path) for path in sorted(metrics.glob("*.json"))}
    curves = {
        "clip": _curves(root / "curves", ["clip"]),
        "cluster": _curves(root / "curves", ["cluster"]),
        "tokenizer": _curves(root / "curves" / "tokenizer", variants),
        "prior": _curves(root / "curves" / "prior", pairs),
        "read": _curves(root / "curves" / "read", readings),
    }
    outputs = [root / output for output in _outputs(variants, pairs, readings)]
    lineages = _lineages(outputs)
    _need_fit(root, lineages)
    grouped = [Path(group, name) for group, names in named.items() for name in names]
    for stem in [*map(Path, {**own, **dict.fromkeys(_OWN)}), *grouped]:
        _need_tied(root, stem, lineages)
    costs = tuple(_cost(path, path.relative_to(root).as_posix()) for path in outputs)
    return Inputs(
        root,
        tree,
        own,
        read["tokenizer"],
        read["evaluate"],
        read["prior"],
        read["read"],
        curves,
        tuple(outputs),
        costs,
        _packages(lineages.values()),
        tuple(strays),
    )


def read_json(path: Path) -> Metrics:
    """A metrics file, which may be one that no stage wrote and that has no checksum.

    Raises:
        ArtifactError: not a JSON object, or damaged.
    """
    return parse_sealed(path.read_bytes(), path, "git checkout, or dvc repro", required=False)[0]


def read_curve(path: Path) -> Curve:
    """A curves file: CSV whose first column is `step`.

    Raises:
        ArtifactError: another header, or a cell that is no number.
    """
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        if not rows or not rows[0] or rows[0][0] != "step":
            raise ValueError("its header does not begin with step")
        numbers = [[float(cell) if cell else math.nan for cell in row] for row in rows[1:]]
        return {name: [row[i] for row in numbers] for i, name in enumerate(rows[0])}
    except (ValueError, IndexError, csv.Error) as error:
        raise ArtifactError(f"{path}: not a curves file ({error})") from error


def _names(tree: Mapping[str, Any], *keys: str) -> list[str]:
    node: Any = tree
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return [str(name) for name in node] if isinstance(node, Mapping) else []


def _read_all(folder: Path, names: Iterable[str]) -> dict[str, Metrics]:
    return {name: read_json(folder / f"{name}.json") for name in names if (folder / f"{name}.json").is_file()}


def _curves(folder: Path, names: Iterable[str]) -> dict[str, Curve]:
    return {name: read_curve(folder / f"{name}.csv") for name in names if (folder / f"{name}.csv").is_file()}


def _outputs(variants: list[str], pairs: list[str], readings: list[str]) -> list[str]:
    """The outputs with sidecars, in the order of the stages."""
    common = ["dataset", "clip", "vocabulary", "prior/words", "patches", "prior/patches"]
    groups = (
        ("tokenizer", variants), ("tokens", variants), ("generator", pairs), ("evaluation", variants),
        ("reading", readings),
    )  # fmt: skip
    return common + [f"{group}/{name}" for group, names in groups for name in names]


def _cost(path: Path, output: str) -> Cost:
    """The cost of an output; a sidecar that was written for other content does not count."""
    cost = read_cost(path)
    if cost is None or not path.exists() or cost.get("output") != tree_digest(path):
        return Cost(output, None, None, None)
    further = {k: float(v) for k, v in cost.items() if k not in _COST_KEYS and isinstance(v, int | float)}
    return Cost(output, float(cost["seconds"]), float(cost["peak_memory_bytes"]), cost.get("cores"), further)


def _packages(lineages: Iterable[Lineage]) -> dict[str, str]:
    """Package versions of the outputs' lineages; where they differ, all are given."""
    found: dict[str, set[str]] = {}
    for lineage in lineages:
        for name, version in lineage.packages.items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}


def _lineages(outputs: Iterable[Path]) -> dict[Path, Lineage]:
    """The lineages of the outputs that are there and have one.

    Raises:
        ArtifactError: one that is damaged, or of other content than its artifact.
    """
    return {
        path: known for path in outputs if path.exists() and (known := need_own_lineage(path)) is not None
    }


def _need_fit(root: Path, lineages: Mapping[Path, Lineage]) -> None:
    """Raise `MismatchError` where an artifact was made from another version of an artifact under the same root."""
    for path, lineage in lineages.items():
        for name, spec in lineage.specs.items():
            other = root.joinpath(*Path(name).parts[1:])
            ours = Path(name).parts[0] == root.name and not lineage.mixed
            if ours and (other / MANIFEST).is_file():
                digest = tree_digest(other)
                if lineage.inputs.get(name) != digest:
                    raise misfit(path, lineage, spec, str(lineage.inputs.get(name)), other, digest)


_OWN = ("dataset", "clip", "vocabulary", "graph", "patches", "cluster")
"""The stages of one output each, which have metrics."""
_PLACES = {
    "graph": "prior/words", "cluster": "prior/patches", "evaluate": "evaluation", "prior": "generator",
    "read": "reading",
}  # fmt: skip
"""Where the artifact of a metrics file lies, where that is not as the file is called."""


def _need_tied(root: Path, stem: Path, lineages: Mapping[Path, Lineage]) -> None:
    """Check that metrics are there where their artifact is, and are of the artifact and the curves that lie there.

    Args:
        stem: of the metrics file under `metrics`, such as `evaluate/vq`.
        lineages: of the artifacts that stages made.

    Raises:
        ArtifactError: metrics or curves that are not there.
        MismatchError: an artifact or curves of another run.
    """
    path, run = (
        root.joinpath("metrics", f"{stem}.json"),
        f"dvc checkout, or dvc repro -f {'@'.join(stem.parts)}",
    )
    artifact = root.joinpath(_PLACES.get(stem.parts[0], stem.parts[0]), *stem.parts[1:])
    if not path.is_file():
        if artifact in lineages:
            raise ArtifactError(f"{path} is not there, and {artifact} is", run=run)
        return
    curves = root.joinpath("curves", f"{stem}.csv")
    aligner = root.joinpath("aligner", *stem.parts[1:])
    places = {"curves": curves, "aligner": aligner, "no-aligner": aligner}
    for name, digest in parse_sealed(path.read_bytes(), path, run, required=False)[1].items():
        other = places.get(name, artifact)
        if other == curves and not curves.is_file():
            raise ArtifactError(f"{curves} is not there, and {path} is", run=run)
        if other.exists() and not (found := tree_digest(other)).startswith(digest):
            raise MismatchError(
                f"{path} is not of {other}", found=f"{other} is {found[:16]}…",
                expected=f"{digest}…, as the seal of the metrics says", run=run,
            )  # fmt: skip
