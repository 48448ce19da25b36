"""Recipes of the quantizers with a gradient of their own, of the lattices, and of residual over several bases."""

from __future__ import annotations

from typing import Any

from tests.recipes import DIM, LAYERS, LC, PROJECTOR, VQ, VQCT, Recipe, centroids, words

COSINE = {"kind": "cosine", "start": 0.9, "end": 0.1}
EXPONENTIAL = {"kind": "exponential", "start": 1.0, "end": 0.05, "until": 0.5}
GUMBEL = {
    "kind": "gumbel",
    "dim": DIM,
    "num_codes": 16,
    "temperature": COSINE,
    "kl_weight": 0.01,
    "hard": False,
}
SQ_VAE = {
    "kind": "sq_vae",
    "dim": DIM,
    "num_codes": 16,
    "temperature": EXPONENTIAL,
    "weight": 0.1,
    "variance": "global",
    "start_variance": 0.5,
    "init": "normal",
}
ENTROPY = {"entropy_weight": 0.05, "sample_weight": 1.0, "batch_weight": 1.0, "inverse_temperature": 2.0}
IBQ = {"kind": "ibq", "dim": DIM, "num_codes": 16, "beta": 0.25, "init": "uniform", **ENTROPY}
FSQ = {"kind": "fsq", "dim": DIM, "levels": [8, 5, 3, 3, 3, 2, 2, 4], "margin": 0.001, "shift": "atanh"}
LFQ = {"kind": "lfq", "dim": DIM, "commitment_weight": 0.25, **ENTROPY}
RESIDUAL = {"kind": "residual", "base": VQ, "num_stages": 3, "shared": False, "reduce": "sum"}

CONVOLUTION = {"codes", "logits.weight", "logits.bias"}
HEAD = {"log_variance_of.weight", "log_variance_of.bias"}


def staged(names: set[str], num_stages: int) -> set[str]:
    return {f"stages.{stage}.{name}" for stage in range(num_stages) for name in names}


def residual(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**RESIDUAL, "base": base, **changes}


SOFT: dict[str, dict[str, Recipe]] = {
    "fsq": {
        "port": Recipe(FSQ),
        "paper": Recipe({**FSQ, "margin": -0.001, "shift": "tan"}),
    },
    "gumbel": {
        "soft": Recipe(GUMBEL, None, CONVOLUTION),
        "hard": Recipe({**GUMBEL, "hard": True, "kl_warmup": 0.1}, None, CONVOLUTION),
    },
    "ibq": {
        "uniform": Recipe(IBQ, None, {"codes"}),
        "data-no-entropy": Recipe({**IBQ, "init": "data", "entropy_weight": 0.0}, None, {"codes"}),
    },
    "lfq": {
        "entropy": Recipe(LFQ),
        "commitment": Recipe({**LFQ, "entropy_weight": 0.0}),
    },
    "residual": {
        "vq": Recipe(RESIDUAL, None, staged({"codes"}, 3)),
        "vq-shared-data": Recipe(
            residual({**VQ, "init": "data"}, shared=True, reduce="mean"), None, staged({"codes"}, 1)
        ),
        "gumbel": Recipe(residual({**GUMBEL, "hard": True}, num_stages=2), None, staged(CONVOLUTION, 2)),
        "fsq": Recipe(residual({**FSQ, "levels": [5] * DIM}, num_stages=2, stage_scale=0.25)),
        "lfq": Recipe(residual(LFQ, num_stages=2, stage_scale=0.5)),
        "lc": Recipe(residual(LC, num_stages=2), centroids(), staged(PROJECTOR, 2)),
        "vqct": Recipe(residual(VQCT, num_stages=2), words(), staged(LAYERS, 2), named=True),
    },
    "sq_vae": {
        "global": Recipe(SQ_VAE, None, {"codes", "log_variance"}),
        "position-data": Recipe(
            {**SQ_VAE, "variance": "position", "init": "data"}, None, {"codes", "log_variance"} | HEAD
        ),
    },
}  # fmt: skip
