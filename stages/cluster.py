"""The cluster stage: the patches codebook, made of patch features by k-means or drawn at random."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    patches: Annotated[Path, typer.Option(help="The patches artifact.")] = Path("artifacts/patches"),
    dataset: Annotated[
        Path, typer.Option(help="The dataset artifact; read for its labels, with per_class.")
    ] = Path("artifacts/dataset"),
    out: Annotated[Path, typer.Option(help="The patches codebook to publish.")] = Path(
        "artifacts/codebook/patches"
    ),
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")] = Path(
        "artifacts/metrics/cluster.json"
    ),
    curves: Annotated[Path, typer.Option(help="The objective of each iteration to publish, CSV.")] = Path(
        "artifacts/curves/cluster.csv"
    ),
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
    section: Annotated[str, typer.Option(help="The section of the params file, by dotted name.")] = "cluster",
) -> None:
    """Cluster patch features into K centroids, ordered so that chosen prefixes of them are codebooks too.

    Example: python -m stages.cluster --patches artifacts/patches --out artifacts/codebook/patches
    """
    from vqpipe.artifacts.inputs_outputs import CURVES, JSON
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.codebooks import PATCHES_CODEBOOK
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.patches import PATCHES
    from vqpipe.params.base import load_params
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.runtime.env import is_main_process
    from vqpipe.vision.cluster import ClusterParams, write_patches_codebook

    config = load_params(params, section, ClusterParams)
    labels = dataset if config.per_class else None
    with (
        process_group(),
        stage_run(
            "cluster",
            config,
            [(patches, PATCHES), *([(labels, DATASET)] if labels else [])],
            [(out, PATCHES_CODEBOOK), (metrics, JSON), (curves, CURVES)],
            mixed=mixed,
        ) as run,
    ):
        scratch = run.scratch()
        measured = write_patches_codebook(
            patches, config, run.staged(out),
            dataset=labels, curves=run.staged(curves), scratch=scratch, device=device(),
        )  # fmt: skip
        if is_main_process():
            run.metrics(metrics, measured)


app = stage_app(main)

if __name__ == "__main__":
    app()
