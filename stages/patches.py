"""The patches stage: pooled CLIP patch features of a split."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Params, stage_app


def main(
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    out: Annotated[Path, typer.Option(help="The patches artifact to publish.")] = Path("artifacts/patches"),
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")] = Path(
        "artifacts/metrics/patches.json"
    ),
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Run the images of a split through CLIP and write their patch features, average-pooled to a grid.

    Example: python -m stages.patches --clip artifacts/clip --out artifacts/patches
    """
    from vqpipe.artifacts.run import stage_run
    from vqpipe.data.loader import ImageSplit
    from vqpipe.data.read import open_split
    from vqpipe.params.base import load_params
    from vqpipe.params.patches import PatchesParams
    from vqpipe.runtime.device import device
    from vqpipe.vision.clip import Clip
    from vqpipe.vision.features import write_patches

    config = load_params(params, "patches", PatchesParams)
    with stage_run("patches", config, [dataset, clip]) as run:
        images = ImageSplit.open(dataset, config.split, open_split(dataset, config.split).facts["resolution"])
        measured = write_patches(Clip.load(clip, device()), images, config, run.published(out), device())
        run.metrics(metrics, measured)


app = stage_app(main)

if __name__ == "__main__":
    app()
