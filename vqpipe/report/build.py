"""From an artifacts folder to the page and its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqpipe.artifacts.intact import generation
from vqpipe.errors import ArtifactError
from vqpipe.params.report import ReportParams
from vqpipe.report.about_clusters import about_clusters
from vqpipe.report.about_data import about_clip, about_dataset
from vqpipe.report.about_health import about_health
from vqpipe.report.about_priors import about_priors
from vqpipe.report.about_reading import about_reading
from vqpipe.report.about_run import about_run
from vqpipe.report.about_tokenizers import about_tokenizers
from vqpipe.report.about_words import about_words
from vqpipe.report.inputs import Inputs, read_inputs
from vqpipe.report.page import render
from vqpipe.report.summary import summary

PAGE = "index.html"
METRICS = "metrics.json"


@dataclass(frozen=True)
class Report:
    """The page as HTML text and the metrics as plain JSON content."""

    html: str
    metrics: dict[str, Any]


def build_report(artifacts: Path, params_file: Path, params: ReportParams) -> Report:
    """Build the report of whatever lies under `artifacts`; parts whose inputs are absent say so in words.

    Raises:
        ParamsError: no params file.
        ArtifactError: an input that is there but is damaged, of another version, or replaced meanwhile.
        MismatchError: artifacts, metrics or curves that are not of one run.
    """
    inputs = read_inputs(artifacts, params_file)
    before = {path: generation(path) for path in inputs.outputs}
    sections = [
        about_run(inputs),
        about_dataset(inputs, params),
        about_clip(inputs),
        about_words(inputs, params),
        about_clusters(inputs),
        about_tokenizers(inputs, params),
        about_health(inputs, params),
        about_reading(inputs, params),
        about_priors(inputs, params),
    ]
    for path, seen in before.items():
        if generation(path) != seen:
            raise ArtifactError(f"{path} was replaced while the report read it", run="dvc repro report")
    return Report(render(params.title, _lead(inputs), sections), summary(inputs))


def _lead(inputs: Inputs) -> str:
    def listed(names: list[str]) -> str:
        return ", ".join(names) if names else "none"

    return f"Tokenizers: {listed(inputs.variants)}. Priors over their tokens: {listed(inputs.pairs)}."
