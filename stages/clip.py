"""The clip stage: the CLIP that every other stage uses, a pretrained one or a small one fitted to the captions."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Params, stage_app


def main(
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    out: Annotated[Path, typer.Option(help="The CLIP artifact to publish.")] = Path("artifacts/clip"),
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")] = Path(
        "artifacts/metrics/clip.json"
    ),
    curves: Annotated[Path, typer.Option(help="The training curves to publish, CSV.")] = Path(
        "artifacts/curves/clip.csv"
    ),
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Publish a pretrained CLIP or fit a small one, and measure retrieval on the validation split.

    Example: python -m stages.clip --dataset artifacts/dataset --out artifacts/clip
    """
    from vqpipe.artifacts.inputs_outputs import CURVES, JSON
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.params.base import load_params
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.runtime.preflight import need_compiler
    from vqpipe.training.clip import ClipParams, make_clip, raw_inputs

    config = load_params(params, "clip", ClipParams)
    if config.pretrained is None and config.fit is not None and config.fit.training.compile:
        need_compiler(device().type)
    with (
        process_group(),
        stage_run(
            "clip",
            config,
            [(dataset, DATASET), *raw_inputs(config)],
            [(out, CLIP), (metrics, JSON), (curves, CURVES)],
            roles={dataset: "measured"} if config.pretrained is not None else {},
        ) as run,
    ):
        scratch = run.scratch()
        measured = make_clip(dataset, config, run.staged(out), run.staged(curves), scratch, device())
        if measured is not None:
            run.metrics(metrics, measured)


app = stage_app(main)

if __name__ == "__main__":
    app()
