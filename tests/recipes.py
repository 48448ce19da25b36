"""How to build each quantizer of QUANTIZERS in small: what the property tests run over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from vqpipe.codebooks.centroids import Centroids
from vqpipe.codebooks.words import Words
from vqpipe.quantizers import Prior

DIM = 8


def words() -> Any:
    draw = torch.Generator().manual_seed(3)
    return Words(
        adjectives=["red", "blue", "yellow", "striped", "old"],
        nouns=["bird", "sun", "sea", "house", "cat", "tree", "red"],
        adjective_vectors=torch.randn(5, 12, generator=draw),
        noun_vectors=torch.randn(7, 12, generator=draw),
        edges=torch.tensor([[0, 1, 2, 2, 3, 4], [0, 2, 1, 0, 4, 6]]),
        weights=torch.tensor([3.0, 9.0, 20.0, 1.0, 2.0, 2.0]),
    )


def centroids() -> Any:
    vectors = torch.randn(40, 20, generator=torch.Generator().manual_seed(4))
    return Centroids(vectors, torch.ones(40, dtype=torch.int64), {})


@dataclass(frozen=True)
class Recipe:
    """One way to build a quantizer: its params, its prior, which parameters its loss must move, whether its codes
    have names, and whether z gets the gradient of z_q as it is (where the method has none of its own)."""

    params: dict[str, Any]
    prior: Prior = None
    trained: set[str] = field(default_factory=set)
    named: bool = False
    identity: bool = True


COMMON = {"dim": DIM, "beta": 0.25, "beta_on": "commitment"}
GCN = {
    "kind": "gcn",
    "num_layers": 3,
    "hidden_dim": 16,
    "final_relu": True,
    "dropout": 0.0,
    "edge_weights": "binary",
}
REFERENCE = {**GCN, "num_layers": 2, "final_relu": False, "dropout": 0.5, "edge_weights": "count"}
MLP = {"kind": "mlp", "num_layers": 2, "hidden_dim": 16, "final_relu": False, "dropout": 0.0}
VQ = {"kind": "vq", **COMMON, "num_codes": 16, "init": "uniform"}
VQCT = {"kind": "vqct", **COMMON, "transfer": GCN, "init": "standard"}
LC = {"kind": "lc", **COMMON, "num_codes": 32, "distance": "cosine", "init": "standard"}
LAYERS = {f"transfer.layers.{i}.{part}" for i in range(3) for part in ("weight", "bias")}
TWO = {name for name in LAYERS if ".2." not in name}
PROJECTOR = {"projector.weight", "projector.bias"}

RECIPES: dict[str, dict[str, Recipe]] = {
    "vq": {
        "uniform": Recipe(VQ, None, {"codes"}),
        "data": Recipe({**VQ, "init": "data", "num_codes": 70}, None, {"codes"}),
        "legacy": Recipe({**VQ, "beta_on": "codebook"}, None, {"codes"}),
    },
    "vqct": {
        "paper": Recipe(VQCT, words(), LAYERS, named=True),
        "paper-data": Recipe({**VQCT, "init": "data"}, words(), LAYERS, named=True),
        "reference": Recipe({**VQCT, "transfer": REFERENCE}, words(), TWO, named=True),
        "mlp-data": Recipe({**VQCT, "transfer": MLP, "init": "data"}, words(), TWO, named=True),
    },
    "lc": {
        "paper": Recipe({**LC, "beta": 0.33, "beta_on": "codebook"}, centroids(), PROJECTOR),
        "reference": Recipe({**LC, "distance": "euclidean"}, centroids(), PROJECTOR),
        "data": Recipe({**LC, "init": "data"}, centroids(), PROJECTOR),
    },
}  # fmt: skip


def merged(*parts: dict[str, dict[str, Recipe]]) -> dict[str, dict[str, Recipe]]:
    """The recipes of several files, which may add to the same kind under other names."""
    whole: dict[str, dict[str, Recipe]] = {}
    for part in parts:
        for kind, recipes in part.items():
            assert not whole.get(kind, {}).keys() & recipes.keys(), f"{kind} has two recipes of one name"
            whole[kind] = {**whole.get(kind, {}), **recipes}
    return whole
