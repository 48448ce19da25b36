"""Build the dataset artifact: images, captions and labels in Parquet shards, from the source named in params.

Example: python -m stages.dataset --out artifacts/dataset --metrics artifacts/metrics/dataset.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Params, stage_app


def main(
    out: Annotated[Path, typer.Option(help="Folder for the shards.")] = Path("artifacts/dataset"),
    metrics: Annotated[Path, typer.Option(help="File for the counts.")] = Path(
        "artifacts/metrics/dataset.json"
    ),
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Read the source of dataset.source, quarantine what is bad, and publish the rest.

    Example: python -m stages.dataset --out artifacts/dataset --params params.yaml
    """
    from vqpipe.artifacts.inputs_outputs import JSON
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.data.build import DatasetParams, build_dataset, raw_inputs
    from vqpipe.params.base import load_params

    config = load_params(params, "dataset", DatasetParams)
    with stage_run("dataset", config, raw_inputs(config), [(out, DATASET), (metrics, JSON)]) as run:
        run.metrics(metrics, build_dataset(config, run.staged(out)))


app = stage_app(main)

if __name__ == "__main__":
    app()
