"""What the report reads under one root: metrics, curves and sidecars, each of which may be absent."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vqpipe.artifacts.lineage import Lineage, misfit, need_own_lineage
from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import MANIFEST, tree_digest
from vqpipe.artifacts.remedies import CURVES
from vqpipe.artifacts.seal import parse_sealed
from vqpipe.artifacts.show import read_cost
from vqpipe.artifacts.ties import need_tied
from vqpipe.data.build import DatasetMetrics
from vqpipe.errors import ArtifactError
from vqpipe.evaluation.judges_train import JudgesMetrics
from vqpipe.evaluation.measure import EvaluationMetrics
from vqpipe.params.base import Params, read_yaml
from vqpipe.params.names import check_names
from vqpipe.priors.measure import PriorMetrics
from vqpipe.tasks import TASKS
from vqpipe.tasks.task import TaskMetrics
from vqpipe.text.graph import GraphMetrics
from vqpipe.text.vocabulary import VocabularyMetrics
from vqpipe.tokenizers.train import TokenizerMetrics
from vqpipe.training.clip import ClipMetrics
from vqpipe.vision.cluster import ClusterMetrics
from vqpipe.vision.patches import PatchesMetrics

Count = Annotated[int, Field(ge=0)]


class ReportParams(Params):
    """The `report` section."""

    title: Annotated[str, Field(min_length=1, max_length=120)]
    """Heading of the page."""
    max_picture_pixels: Annotated[int, Field(ge=16, le=1024)]
    """Longer side of a picture on the page, in pixels; larger ones are shrunk by area average."""
    num_dataset_images: Count
    """Pictures shown of the training split, spread evenly over it."""
    num_reconstructions: Count
    """Reconstructions shown of each kind (random, hard, typical, easy, worst)."""
    num_pairs: Count
    """Rows of the table of adjective-noun pairs, the most frequent ones."""
    num_edges: Annotated[int, Field(ge=0, le=120)]
    """Edges in the drawing of the modifying graph, the strongest ones."""
    num_code_words: Count
    """Codes shown with their patches for each group of a tokenizer, the most used ones."""
    num_samples: Count
    """Samples shown of each prior, and pairs of a sample and its nearest training image."""
    num_task_examples: Count
    """Test images shown of each task: masked words, retrieval, cosines of words and codes."""
    error_levels: Annotated[float, Field(gt=0, le=255)]
    """Mean absolute error, in grey levels, from which the heat map shows its last colour."""


MODELS: dict[str, type[Metrics]] = {
    "dataset": DatasetMetrics, "clip": ClipMetrics, "vocabulary": VocabularyMetrics, "graph": GraphMetrics,
    "patches": PatchesMetrics, "cluster": ClusterMetrics, "tokenizer": TokenizerMetrics, "evaluate": EvaluationMetrics,
    "judges": JudgesMetrics, "prior": PriorMetrics,
}  # fmt: skip
"""The model of each stage's metrics; a task's is that of its kind."""
STAGES = ("dataset", "clip", "vocabulary", "graph", "patches", "cluster", "judges")
"""The stages of one output each, which have metrics."""

Curve = dict[str, list[float]]
"""Columns of a curves file by name, `step` among them; empty cells are NaN."""

_COST_KEYS = ("stage", "seconds", "peak_memory_bytes", "cpu_seconds", "cores", "output")


@dataclass(frozen=True)
class Cost:
    """What one output cost; None where it was not measured for the content that is here.

    `further` has what else a stage measured, such as tokens per second.
    """

    output: str
    seconds: float | None
    peak_memory_bytes: float | None
    cores: int | None
    further: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """Everything that the sections use. Mappings of variants and pairs follow the order of the params file."""

    root: Path
    params: dict[str, Any]
    dataset: DatasetMetrics | None = None
    clip: ClipMetrics | None = None
    vocabulary: VocabularyMetrics | None = None
    graph: GraphMetrics | None = None
    patches: PatchesMetrics | None = None
    cluster: ClusterMetrics | None = None
    judges: JudgesMetrics | None = None
    tokenizer: dict[str, TokenizerMetrics] = field(default_factory=dict)
    evaluate: dict[str, EvaluationMetrics] = field(default_factory=dict)
    prior: dict[str, PriorMetrics] = field(default_factory=dict)
    task: dict[str, TaskMetrics[Any]] = field(default_factory=dict)
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    outputs: tuple[Path, ...] = ()
    """Where the stages' artifacts are, whether or not they are there."""
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
    def tasks(self) -> list[str]:
        """The tasks that the params file names, in its order."""
        return _names(self.params, "task", "pairs")

    def folder(self, *parts: str) -> Path:
        """A folder under the root, whether or not it is there."""
        return self.root.joinpath(*parts)


def read_inputs(root: Path, params: Path) -> Inputs:
    """Read all that is small; pictures and tables are read by the sections that show them.

    Raises:
        ParamsError: no params file, or one with an entry whose name cannot be a file's.
        ArtifactError: no such root, one without the metrics of any stage, or a metrics, curves or sidecar file that is
            there but is damaged.
        MismatchError: an artifact that was made from another version of one that is there, or metrics or curves that
            are not of the artifact that is there.
    """
    tree = read_yaml(params)
    check_names(tree, params.name)
    if not root.is_dir():
        raise ArtifactError(f"there is no artifacts folder {root}", run="dvc repro")
    names = {
        "tokenizer": _names(tree, "tokenizer", "variants"),
        "evaluate": _names(tree, "tokenizer", "variants"),
        "prior": _names(tree, "prior", "pairs"),
        "task": _names(tree, "task", "pairs"),
    }
    outputs = [root / output for output in _outputs(names)]
    lineages = _lineages(outputs)
    _need_fit(root, lineages)
    for stem in [*map(Path, STAGES), *(Path(group, name) for group, own in names.items() for name in own)]:
        _need_tied(root, stem, lineages)
    read = partial(_read_metrics, root / "metrics")
    groups = {group: read(group, known) for group, known in names.items()}
    strays = [
        f"{group} {path.stem}"
        for group, known in names.items()
        for path in sorted((root / "metrics" / group).glob("*.json"))
        if path.stem not in known
    ]
    single: dict[str, Any] = {**read(".", STAGES), **groups}
    found = Inputs(
        root, tree,
        **single,
        curves={
            **{name: _curves(root / "curves", [name]) for name in ("clip", "cluster", "judges")},
            **{group: _curves(root / "curves" / group, names[group]) for group in ("tokenizer", "prior", "task")},
        },
        outputs=tuple(outputs),
        costs=tuple(_cost(path, path.relative_to(root).as_posix()) for path in outputs),
        packages=_packages(lineages.values()),
        strays=tuple(strays),
    )  # fmt: skip
    if not strays and not any(single.values()):
        held = ", ".join(path.name for path in sorted(root.iterdir())[:8])
        raise ArtifactError(
            f"{root} has no metrics, so there is nothing to report", found=held or "an empty folder",
            expected=f"metrics of stages that have run, such as {root / 'metrics/dataset.json'}", run="dvc repro",
        )  # fmt: skip
    return found


def _read_metrics(folder: Path, group: str, names: Iterable[str]) -> dict[str, Any]:
    """The metrics files of a group that are there, through the model of their stage."""
    found = {}
    for name in names:
        path = folder / group / f"{name}.json"
        if path.is_file():
            run = f"git checkout {path}, or dvc repro {name if group == '.' else f'{group}@{name}'}"
            content = read_json(path)
            model = (
                _task_model(content, path, run)
                if group == "task"
                else MODELS[name if group == "." else group]
            )
            found[name] = model.of(content, path, run)
    return found


def _task_model(content: Mapping[str, Any], path: Path, run: str) -> type[Metrics]:
    kind = content.get("kind")
    if kind not in TASKS:
        raise ArtifactError(
            f"{path} is not the metrics of a known task", found=repr(kind), choices=list(TASKS), run=run
        )
    model: type[Metrics] = TASKS[str(kind)].Metrics
    return model


def read_json(path: Path) -> dict[str, Any]:
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


def _curves(folder: Path, names: Iterable[str]) -> dict[str, Curve]:
    return {name: read_curve(folder / f"{name}.csv") for name in names if (folder / f"{name}.csv").is_file()}


def _outputs(names: Mapping[str, list[str]]) -> list[str]:
    """The outputs with sidecars, in the order of the stages."""
    common = ["dataset", "clip", "vocabulary", "codebook/words", "patches", "codebook/patches", "judges"]
    groups = (
        ("tokenizer", names["tokenizer"]), ("tokens", names["tokenizer"]), ("prior", names["prior"]),
        ("evaluation", names["tokenizer"]), ("task", names["task"]),
    )  # fmt: skip
    return common + [f"{group}/{name}" for group, own in groups for name in own]


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


_PLACES = {"graph": "codebook/words", "cluster": "codebook/patches", "evaluate": "evaluation"}
"""Where the artifact of a metrics file is, where its path is not that of the metrics file."""


def _need_tied(root: Path, stem: Path, lineages: Mapping[Path, Lineage]) -> None:
    """Check that metrics are there where their artifact is, and are of the artifact and the curves that are there.

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
    for name, digest in parse_sealed(path.read_bytes(), path, run, required=False)[1].items():
        need_tied(path, name, digest, [curves if name == CURVES else artifact], run)
