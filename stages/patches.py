"""The patches stage: pooled patch features of a split, of CLIP or another tower."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact; read with tower clip.")] = Path(
        "artifacts/clip"
    ),
    out: Annotated[Path, typer.Option(help="The patches artifact to publish.")] = Path("artifacts/patches"),
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")] = Path(
        "artifacts/metrics/patches.json"
    ),
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
    section: Annotated[str, typer.Option(help="The section of the params file, by dotted name.")] = "patches",
) -> None:
    """Run the images of a split through CLIP or another tower and write their patch features, average-pooled to a grid.

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
    from vqpipe.vision.patches import ClipTower, PatchesParams, load_tower, write_patches

    config = load_params(params, section, PatchesParams)
    reads_clip = isinstance(config.tower, ClipTower)
    with (
        process_group(),
        stage_run(
            "patches",
            config,
            [(dataset, DATASET), *([(clip, CLIP)] if reads_clip else [])],
            [(out, PATCHES), (metrics, JSON)],
            mixed=mixed,
        ) as run,
    ):
        scratch = run.scratch()
        tower = load_tower(config, clip, device())
        if not reads_clip:  # its file is no input, so another file's shards must not be taken for its own
            scratch = scratch / tower.id.rpartition(":")[2]
            scratch.mkdir(exist_ok=True)
        fit = (tower.image_size, tower.interpolation, tower.resize_mode)
        images = ImageStream.open(dataset, config.split, *fit)
        measured = write_patches(tower, images, config, run.staged(out), scratch, device())
        if measured is not None:
            run.metrics(metrics, measured)


app = stage_app(main)

if __name__ == "__main__":
    app()
