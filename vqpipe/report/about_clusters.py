"""The patch clusters: what k-means did, and how large the clusters are."""

from __future__ import annotations

from vqpipe.artifacts.publish import MANIFEST
from vqpipe.artifacts.specs.centroids import CENTROID_TENSORS
from vqpipe.artifacts.tensors import read_tensors
from vqpipe.report.about_words import plain_table
from vqpipe.report.blocks import Absent, Block, Chart, Charts, Section, Text
from vqpipe.report.charts import Series, line_chart, rank_frequency
from vqpipe.report.inputs import Inputs
from vqpipe.report.names import number


def about_clusters(inputs: Inputs) -> Section:
    """The section `Patch clusters`."""
    blocks: list[Block] = [
        Text(
            "Pooled CLIP features of image patches make the other codebook prior: "
            "the centroids of k-means, unless the params say otherwise."
        )
    ]
    for stage, title in (("patches", "Patches"), ("cluster", "Clusters")):
        metrics = inputs.stages.get(stage)
        if metrics is None:
            blocks.append(Absent(f"{title}: no metrics file of the {stage} stage. Run: dvc repro {stage}"))
        else:
            blocks.append(plain_table(f"{title} in numbers", metrics))
    folder = inputs.folder("prior", "patches")
    if not (folder / MANIFEST).is_file():
        return Section(
            "clusters",
            "Patch clusters",
            [
                *blocks,
                Absent("The centroids are absent in this checkout. Run: dvc pull, or dvc repro cluster"),
            ],
        )
    tensors, _ = read_tensors(folder / "centroids.safetensors", CENTROID_TENSORS)
    counts = tensors["counts"].tolist()
    alt = "Patches of each cluster by rank, logarithmic axes"
    note = (
        f"Patches of each of the {number(len(counts))} clusters in falling order; the largest "
        f"holds {number(max(counts))}, the smallest {number(min(counts))}."
    )
    svg = rank_frequency([("clusters", counts)], alt, x_label="rank of the cluster", y_label="patches")
    sizes = Charts("Sizes of the clusters", [Chart(svg, "")], (), note, wide=True)
    return Section("clusters", "Patch clusters", [*blocks, *_objective(inputs), sizes])


def _objective(inputs: Inputs) -> list[Block]:
    """The k-means objective by iteration; nothing where the codebook is not k-means' (random vectors, say)."""
    curve = inputs.curves.get("cluster", {}).get("cluster")
    if curve is None or len(curve["step"]) < 2:
        return []
    line = [Series("objective", curve["step"], curve["objective"], 0)]
    svg = line_chart(line, x_label="iteration", y_label="", alt="k-means objective by iteration", log_y=False)
    refilled = sum(curve["refilled"])
    note = (
        "Mean squared distance of a vector to its nearest centroid, before each iteration's update. A curve that "
        f"still falls asks for more iterations. Empty clusters refilled over the run: {number(refilled)}."
    )
    return [Charts("Objective", [Chart(svg, "")], (), note, wide=True)]
