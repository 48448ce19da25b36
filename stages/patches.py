"""The patches stage: pooled CLIP patch features of a split."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    out: Annotated[Path, typer.Option(help="The patches artifact to publish.")] = Path("artifacts/patches"),
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")] = Path(
        "artifacts/metrics/patches.json"
    ),
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
) -> None:
    """Run the images of a split through CLIP and write their patch features, average-pooled to a grid.

    A run that was killed continues after its last whole shard. Under torchrun the ranks share the shards.

    Example: python -m stages.patches --clip artifacts/clip --out artifacts/patches
    """
    from vqpipe.artifacts.inputs_outputs import JSON
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.patches import PATCHES
    from vqpipe.data.stream import ImageStream
    from vqpipe.params.base import load_params
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.vision.clip import Clip
    from vqpipe.vision.patches import PatchesParams, write_patches

    config = load_params(params, "patches", PatchesParams)
    with (
        process_group(),
        stage_run(
            "patches",
            config,
            [(dataset, DATASET), (clip, CLIP)],
            [(out, PATCHES), (metrics, JSON)],
            mixed=mixed,
        ) as run,
    ):
        scratch = run.scratch()
        tower = Clip.load(clip, device())
        fit = (tower.image_size, tower.interpolation, tower.resize_mode)
        images = ImageStream.open(dataset, config.split, *fit)
        measured = write_patches(tower, images, config, run.staged(out), scratch, device())
        if measured is not None:
            run.metrics(metrics, measured)


app = stage_app(main)

if __name__ == "__main__":
    app()
