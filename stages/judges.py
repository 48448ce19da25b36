"""The judges stage: networks that judge samples, trained on the real images of the dataset."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    out: Annotated[Path, typer.Option(help="The judges artifact to publish.")] = Path("artifacts/judges"),
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")] = Path(
        "artifacts/metrics/judges.json"
    ),
    curves: Annotated[Path, typer.Option(help="The training curves to publish, CSV.")] = Path(
        "artifacts/curves/judges.csv"
    ),
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
) -> None:
    """Train a classifier, a segmenter and a detector on the dataset's classes, label maps and boxes, and measure them
    on its test images; a run that was killed resumes from its last checkpoint.

    Example: python -m stages.judges --dataset artifacts/dataset --out artifacts/judges
    """
    from vqpipe.artifacts.inputs_outputs import CURVES, JSON, Output
    from vqpipe.artifacts.publish import read_manifest
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.judges import JUDGES
    from vqpipe.evaluation.judges import JudgeParams
    from vqpipe.evaluation.judges_train import train_judges
    from vqpipe.params.base import load_params
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.runtime.preflight import need_compiler

    config = load_params(params, "judges", JudgeParams)
    if config.training.compile:
        need_compiler(device().type)
    outputs: list[Output] = [(out, JUDGES), (metrics, JSON), (curves, CURVES)]
    with process_group(), stage_run("judges", config, [(dataset, DATASET)], outputs, mixed=mixed) as run:
        trained = train_judges(
            config, dataset, str(read_manifest(dataset, DATASET).facts["kind"]),
            scratch=run.scratch(), curves=run.staged(curves), device=device(),
        )  # fmt: skip
        if trained is not None:
            run.metrics(metrics, trained.metrics)
            trained.save(run.staged(out))


app = stage_app(main)

if __name__ == "__main__":
    app()
