"""Recipes of the forms that VQCT's and VQGAN-LC's ablations take: what is trained, drawn, left out, or averaged."""

from __future__ import annotations

from tests.recipes import GCN, LAYERS, LC, MLP, PROJECTOR, REFERENCE, TWO, VQCT, Recipe, centroids, words
from tests.recipes_soft import residual, staged

WORD_DIM, CENTROID_DIM = 12, 20
VECTORS = {"adjective_vectors", "noun_vectors"}
SINGLE = {**VQCT, "codebooks": "single"}
WORDS_ALONE = {**SINGLE, "transfer": {"kind": "none"}}
BARE = {**LC, "projector": False}


def short(dim: int) -> Recipe:
    """Centroids of the quantizer's own dimension, used as they are."""
    prior = centroids()
    return Recipe(BARE, type(prior)(prior.vectors[:, :dim].contiguous(), prior.counts, {}))


PRIORS: dict[str, dict[str, Recipe]] = {
    "vqct": {
        "single-gcn": Recipe(SINGLE, words(), LAYERS, named=True),
        "single-mlp-data": Recipe({**SINGLE, "transfer": MLP, "init": "data"}, words(), TWO, named=True),
        "single-frozen": Recipe(WORDS_ALONE, words(), named=True),
        "single-tuned": Recipe({**WORDS_ALONE, "trainable_words": True}, words(), VECTORS, named=True),
        "multi-frozen": Recipe({**VQCT, "transfer": {"kind": "none"}}, words(), named=True),
        "gcn-tuned": Recipe({**VQCT, "trainable_words": True}, words(), LAYERS | VECTORS, named=True),
        "random-mlp": Recipe({**VQCT, "transfer": MLP, "words": "random"}, words(), TWO, named=True),
        "random-single-frozen": Recipe({**WORDS_ALONE, "words": "random"}, words(), named=True),
        "two-adjectives": Recipe(
            {**VQCT, "transfer": REFERENCE, "topk_adjectives": 2}, words(), TWO, named=True
        ),
        "three-adjectives-data-tuned": Recipe(
            {**VQCT, "transfer": {**GCN, "final_relu": False}, "init": "data", "topk_adjectives": 3,
             "trainable_words": True},
            words(), LAYERS | VECTORS, named=True,
        ),
        "two-adjectives-rotation": Recipe(
            {**VQCT, "transfer": {**GCN, "final_relu": False}, "topk_adjectives": 2, "estimator": "rotation"},
            words(), LAYERS, named=True, identity=False,
        ),
    },
    "lc": {
        "trainable": Recipe({**LC, "trainable": True}, centroids(), PROJECTOR | {"centroids"}),
        "random-data": Recipe({**LC, "source": "random", "init": "data"}, centroids(), PROJECTOR),
        "random-trainable-euclidean": Recipe(
            {**LC, "source": "random", "trainable": True, "distance": "euclidean"},
            centroids(), PROJECTOR | {"centroids"},
        ),
        "no-projector": short(8),
        "no-projector-trainable": Recipe({**BARE, "trainable": True}, short(8).prior, {"centroids"}),
    },
    "residual": {
        "vqct-two-adjectives": Recipe(
            residual({**VQCT, "topk_adjectives": 2}, num_stages=2), words(), staged(LAYERS, 2), named=True
        ),
        "lc-no-projector": Recipe(residual(BARE, num_stages=2), short(8).prior),
    },
}  # fmt: skip
