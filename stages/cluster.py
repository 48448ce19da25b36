"""The cluster stage: k-means over patch features, packed as the centroids prior."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Params, stage_app


def main(
    patches: Annotated[Path, typer.Option(help="The patches artifact.")] = Path("artifacts/patches"),
    out: Annotated[Path, typer.Option(help="The centroids prior to publish.")] = Path(
        "artifacts/prior/patches"
    ),
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")] = Path(
        "artifacts/metrics/cluster.json"
    ),
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Cluster patch features into K centroids, the fullest cluster first.

    Example: python -m stages.cluster --patches artifacts/patches --out artifacts/prior/patches
    """
    from vqpipe.artifacts.run import stage_run
    from vqpipe.params.base import load_params
    from vqpipe.params.cluster import ClusterParams
    from vqpipe.vision.centroids import write_centroids

    config = load_params(params, "cluster", ClusterParams)
    with stage_run("cluster", config, [patches]) as run:
        run.metrics(metrics, write_centroids(patches, config, run.published(out)))


app = stage_app(main)

if __name__ == "__main__":
    app()
