"""The parts of a centroids prior's card."""

from __future__ import annotations

from vqpipe.codebooks.card_parts import QUANTILES, CardParts, clip_licence, norms, spread
from vqpipe.codebooks.centroids import Centroids
from vqpipe.codebooks.markdown import bullets, section, table

NUM_CLUSTERS = 5
"""Clusters that are listed at either end."""


def centroids_sections(prior: Centroids) -> CardParts:
    """The parts of the card of a centroids prior."""
    facts = prior.facts
    side = facts["grid"]
    rows = [
        ("centroids", len(prior.vectors)),
        ("dimension", facts["dim"]),
        ("CLIP", facts["clip_id"]),
        (
            "features",
            "after the projection into CLIP's joint space" if facts["projected"] else "before the projection",
        ),
        ("patches of each image", f"{side} x {side}"),
        ("patch vectors", facts["num_vectors"]),
        ("method", facts["method"]),
        ("clustered class by class", facts["per_class"]),
        ("objective (mean squared distance to the nearest centroid)", facts["objective"]),
    ]
    about = [
        "Centroids of CLIP features of image patches: each stands for patches that look alike to CLIP. VQGAN-LC "
        "(arXiv 2406.11837) freezes such a codebook and trains a projector on it."
    ]
    first = prior.prefixes
    smallest = min(first)
    call = f"codebook.prefix({smallest})"
    return CardParts(
        about=section("What it is", about, table(["fact", "value"], rows)),
        statistics=section("Statistics", *_statistics(prior)),
        loading=[
            "from vqpipe import load_codebook",
            "",
            'codebook = load_codebook("patches")   # the folder of the prior',
            "codebook.vectors                      # (K, d) float32",
            "codebook.counts                       # (K,) patch vectors nearest to each",
            "codebook.prefixes                     # usable smaller K, with their objectives",
            f"{call:<37} # the first {smallest} vectors",
            "codebook.nearest(features)            # (n, d) features of the same CLIP to n indices",
        ],
        licences=bullets(
            [
                "**Images.** The centroids are means of features of images, and the prior holds no image. Check that "
                "the terms of the images allow sharing what is derived from them.",
                clip_licence(facts["clip_id"], "the features"),
            ]
        ),
        limitations=bullets(
            [
                "The vectors are of use with features of the same CLIP, preprocessing, projection and pooling alone.",
                "Clusters have no names, and a cluster need not be one thing to a person.",
                "Distances are Euclidean between features that are not normalised.",
                "The first k centroids are the better a codebook the nearer k is to one of the prefixes above; counts "
                "are those of the whole codebook.",
            ]
        ),
    )


def _statistics(prior: Centroids) -> list[list[str]]:
    counts = prior.counts
    sizes = norms(prior.vectors)
    order = counts.argsort(descending=True, stable=True)
    spreads = table(
        ["", *QUANTILES],
        [
            ["norm of a centroid", *(f"{own:.4g}" for own in spread(sizes))],
            ["patches of a cluster", *(f"{own:,.0f}" for own in spread(counts))],
        ],
    )
    ends = [("largest", order[:NUM_CLUSTERS]), ("smallest", order[NUM_CLUSTERS:][-NUM_CLUSTERS:].flip(0))]
    total = max(1, int(counts.sum()))
    listed = []
    for name, indices in ends:
        for index in indices.tolist():
            count = int(counts[index])
            share = f"{100 * count / total:.3g} %"
            listed.append([name, index, f"{count:,}", share, f"{float(sizes[index]):.4g}"])
    nested = [
        [f"{k:,}", f"{objective:.5g}", f"{objective / prior.prefixes[len(prior.vectors)]:.3f}"]
        for k, objective in sorted(prior.prefixes.items())
    ]
    return [
        table(["first k centroids", "objective", "beside all of them"], nested),
        spreads,
        [f"Clusters without a patch: {int((counts == 0).sum()):,}. The largest and the smallest:"],
        table(["", "index", "patches", "share", "norm"], listed),
    ]
