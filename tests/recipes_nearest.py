"""Recipes of the quantizers with a nearest-code search beside those of the papers, and of the rotation trick."""

from __future__ import annotations

from tests.recipes import COMMON, DIM, LAYERS, LC, PROJECTOR, VQ, VQCT, Recipe, centroids, words
from tests.recipes_soft import residual, staged

LEARNED = {**COMMON, "num_codes": 16, "init": "uniform"}
EMA = {
    "kind": "ema",
    "dim": DIM,
    "num_codes": 16,
    "beta": 1.0,
    "decay": 0.99,
    "epsilon": 1e-5,
    "init": "uniform",
    "restart": None,
}
RESTART = {"threshold": 0.9, "every": 2}
FC = {"kind": "fc", **LEARNED, "normalise": True}
CVQ = {"kind": "cvq", **LEARNED, "anchor": "closest", "decay": 0.99, "contrastive": None}
CONTRASTIVE = {"weight": 0.5, "temperature": 0.07}
REG_VQ = {
    "kind": "reg_vq",
    **LEARNED,
    "temperature": {"kind": "cosine", "start": 4.0, "end": 0.5},
    "prior_weight": 0.1,
    "stochastic_share": 0.4,
}
SIM_VQ = {"kind": "sim_vq", **LEARNED, "bias": False, "init": "standard"}
TURNED = {"estimator": "rotation"}

NEAREST: dict[str, dict[str, Recipe]] = {
    "cvq": {
        "closest": Recipe(CVQ, None, {"codes"}),
        "probrandom-contrastive": Recipe(
            {**CVQ, "anchor": "probrandom", "distance": "cosine", "contrastive": CONTRASTIVE}, None, {"codes"}
        ),
        "random-data": Recipe({**CVQ, "anchor": "random", "init": "data"}, None, {"codes"}),
    },
    "ema": {
        "uniform": Recipe(EMA),
        "data": Recipe({**EMA, "init": "data"}),
        "restart": Recipe({**EMA, "restart": RESTART}),
    },
    "fc": {
        "sphere": Recipe(FC, None, {"codes"}, identity=False),
        "sphere-data": Recipe({**FC, "init": "data", "num_codes": 70}, None, {"codes"}, identity=False),
        "plain": Recipe({**FC, "normalise": False, "beta_on": "codebook"}, None, {"codes"}),
    },
    "lc": {"rotation": Recipe({**LC, **TURNED}, centroids(), PROJECTOR, identity=False)},
    "reg_vq": {
        "paper": Recipe(REG_VQ, None, {"codes"}),
        "data-no-prior": Recipe({**REG_VQ, "init": "data", "prior_weight": 0.0}, None, {"codes"}),
    },
    "residual": {
        "ema": Recipe(residual({**EMA, "restart": RESTART})),
        "ema-shared": Recipe(residual(EMA, shared=True)),
        "cvq-shared": Recipe(residual(CVQ, shared=True), None, staged({"codes"}, 1)),
        "vqct-rotation": Recipe(
            residual({**VQCT, **TURNED}, num_stages=2), words(), staged(LAYERS, 2), named=True, identity=False
        ),
    },
    "sim_vq": {
        "paper": Recipe(SIM_VQ, None, {"map.weight"}),
        "data": Recipe({**SIM_VQ, "bias": True, "init": "data"}, None, {"map.weight", "map.bias"}),
    },
    "vq": {"rotation": Recipe({**VQ, **TURNED}, None, {"codes"}, identity=False)},
    "vqct": {"rotation": Recipe({**VQCT, **TURNED}, words(), LAYERS, named=True, identity=False)},
}  # fmt: skip
