"""The page: its sections, the run and its cost, rendered by one autoescaping template into one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vqpipe.artifacts.intact import generation
from vqpipe.artifacts.metrics import Metrics
from vqpipe.errors import ArtifactError, human_bytes
from vqpipe.report.about_codebooks import about_clusters, about_words
from vqpipe.report.about_data import about_clip, about_dataset
from vqpipe.report.about_health import about_health
from vqpipe.report.about_priors import about_priors
from vqpipe.report.about_results import about_results
from vqpipe.report.about_tasks import about_tasks
from vqpipe.report.about_tokenizers import about_tokenizers
from vqpipe.report.blocks import Absent, Block, Cell, Column, Section, Table, Text, Tree
from vqpipe.report.inputs import STAGES, Cost, Inputs, ReportParams, read_inputs
from vqpipe.report.names import NOT_MEASURED, number
from vqpipe.report.task_pairs import task_runs
from vqpipe.runtime.terminal import harmless

PAGE = "index.html"
METRICS = "metrics.json"


@dataclass(frozen=True)
class Report:
    """The page as HTML text and the metrics as plain JSON content."""

    html: str
    metrics: dict[str, Any]


def build_report(artifacts: Path, params_file: Path, params: ReportParams) -> Report:
    """Build the report of what is under `artifacts`; parts whose inputs are absent are named.

    Raises:
        ParamsError: no params file, or params of a task that do not fit its stage.
        ArtifactError: an input that is there but is damaged, of another version, or replaced meanwhile.
        MismatchError: artifacts, metrics or curves that are not of one run.
    """
    inputs = read_inputs(artifacts, params_file)
    before = {path: generation(path) for path in inputs.outputs}
    solved = task_runs(inputs)
    sections = [
        about_results(inputs, params, solved),
        about_dataset(inputs, params),
        about_clip(inputs),
        about_words(inputs, params),
        about_clusters(inputs),
        about_tokenizers(inputs, params),
        about_health(inputs, params),
        about_tasks(inputs, params, solved),
        about_priors(inputs, params),
        about_run(inputs),
    ]
    for path, seen in before.items():
        if generation(path) != seen:
            raise ArtifactError(f"{path} was replaced while the report read it", run="dvc repro report")
    return Report(render(params.title, _lead(inputs), sections), summary(inputs))


def _lead(inputs: Inputs) -> str:
    def listed(names: list[str]) -> str:
        return ", ".join(names) if names else "none"

    return f"Tokenizers: {listed(inputs.variants)}. Priors over their tokens: {listed(inputs.pairs)}."


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """One HTML document without scripts or external references; equal sections give equal text. Control
    characters of file names and captions are shown as backslash escapes."""
    environment = Environment(
        loader=PackageLoader("vqpipe.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["leaf"] = _leaf
    page = environment.get_template("page.html.j2").render(title=title, lead=lead, sections=list(sections))
    return harmless(page)


def _leaf(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def summary(inputs: Inputs) -> dict[str, Any]:
    """Numbers and text, sorted: `tokenizer.VARIANT`, `prior.PAIR`, `task.PAIR`, and one entry for each other stage.

    A tokenizer's measures (the mean of an interval) are next to its `training` metrics; floors and references keep
    their names. Lists are left out, and so are the stages' protocols, since `measured` has them.
    """

    def of(metrics: Metrics) -> dict[str, Any]:
        return values({key: value for key, value in metrics.plain().items() if key != "protocol"})

    content: dict[str, Any] = {
        name: of(metrics) for name in STAGES if (metrics := getattr(inputs, name)) is not None
    }
    tokenizers = {name: of(inputs.evaluate[name]) for name in inputs.variants if name in inputs.evaluate}
    for name, metrics in inputs.tokenizer.items():
        tokenizers.setdefault(name, {})["training"] = of(metrics)
    content["tokenizer"] = tokenizers
    for group, found in (("prior", inputs.prior), ("task", inputs.task)):
        content[group] = {name: of(metrics) for name, metrics in found.items()}
    return {key: content[key] for key in sorted(content)}


def values(content: Mapping[str, Any]) -> dict[str, Any]:
    """Nested numbers and text without the rest; `{mean, low, high}` becomes its mean."""
    kept: dict[str, Any] = {}
    for key, value in sorted(content.items()):
        if isinstance(value, Mapping):
            inner = value["mean"] if set(value) == {"mean", "low", "high"} else values(value)
            if inner != {}:
                kept[key] = inner
        elif isinstance(value, int | float | str) and not isinstance(value, bool):
            kept[key] = value
    return kept


def about_run(inputs: Inputs) -> Section:
    """The section `What ran`."""
    blocks: list[Block] = [
        Text(
            "Every number on this page comes from the params below; the same params "
            "give the same numbers on the "
            "same kind of machine. Times and memory are of the machine that ran the stage."
        ),
        Tree("Params, section by section", inputs.params),
    ]
    if inputs.packages:
        listed = ", ".join(f"{name} {version}" for name, version in inputs.packages.items())
        blocks.append(Text(f"The artifacts were written with {listed}."))
    else:
        blocks.append(Absent("Package versions: no lineage sidecars in this checkout."))
    blocks.append(_costs(inputs.costs))
    if inputs.strays:
        blocks.append(Text(f"Left over from earlier params and not shown: {', '.join(inputs.strays)}."))
    return Section("run", "What ran", blocks)


def _costs(costs: tuple[Cost, ...]) -> Block:
    measured = [
        (cost, cost.seconds, cost.peak_memory_bytes)
        for cost in costs
        if cost.seconds is not None and cost.peak_memory_bytes is not None
    ]
    if not measured:
        return Absent(
            f"Cost: {NOT_MEASURED}. Sidecars with time and memory are next to the artifacts where a stage ran."
        )
    columns = [Column("output", numeric=False), Column("time", "s"), Column("peak memory"), Column("cores")]
    rows = [
        [
            Cell(cost.output),
            Cell(number(seconds, 1)),
            Cell(human_bytes(peak)),
            Cell(str(cost.cores or "–")),
        ]
        for cost, seconds, peak in measured
    ]
    total = sum(seconds for _, seconds, _ in measured)
    most = max(peak for *_, peak in measured)
    rows.append([Cell("all of these"), Cell(number(total, 1)), Cell(human_bytes(most)), Cell("")])
    lacking = [cost.output for cost in costs if cost.seconds is None]
    note = "Peak memory is the largest resident size of the stage's process or of one of its workers."
    if lacking:
        note += f" {NOT_MEASURED.capitalize()}: {', '.join(lacking)}."
    return Table("Cost of each output", columns, rows, note, frozenset({len(rows) - 1}))
