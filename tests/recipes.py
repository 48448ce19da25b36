"""How to build each quantizer of QUANTIZERS in small: the cases of the property tests.

A quantizer needs no recipe here: without one, the example of its class (`About.example`) is its case. Those below are
forms of each method: the papers', their reference code's, those of ablations, and `residual` over several bases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from tests.tiny import TOKENIZER
from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.codebooks.patches import PatchesCodebook
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.params.base import validate
from vqpipe.quantizers import QUANTIZERS, AnyQuantizer, build
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams

DIM = 8


def words() -> Any:
    draw = torch.Generator().manual_seed(3)
    return WordsCodebook(
        adjectives=["red", "blue", "yellow", "striped", "old"],
        nouns=["bird", "sun", "sea", "house", "cat", "tree", "red"],
        adjective_vectors=torch.randn(5, 12, generator=draw),
        noun_vectors=torch.randn(7, 12, generator=draw),
        edges=torch.tensor([[0, 1, 2, 2, 3, 4], [0, 2, 1, 0, 4, 6]]),
        weights=torch.tensor([3.0, 9.0, 20.0, 1.0, 2.0, 2.0]),
    )


def patches() -> Any:
    vectors = torch.randn(40, 20, generator=torch.Generator().manual_seed(4))
    return PatchesCodebook(vectors, torch.ones(40, dtype=torch.int64), {})


@dataclass(frozen=True)
class Recipe:
    """One way to build a quantizer."""

    params: dict[str, Any]
    codebook: PretrainedCodebook = None
    """The pretrained codebook."""
    trained: set[str] | None = field(default_factory=set)
    """The parameters that its loss must move; None for all of them."""
    named: bool = False
    """Whether its codes have names."""
    identity: bool = True
    """Whether z gets the gradient of z_q unchanged, where the method has none of its own."""


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
BSQ = {**LFQ, "kind": "bsq", "commitment_weight": 0.0}
RESIDUAL = {"kind": "residual", "base": VQ, "num_stages": 3, "shared": False, "reduce": "sum"}

MULTI = {"kind": "multi", "num_groups": 2, "reduce": "mean"}

CONVOLUTION = {"codes", "logits.weight", "logits.bias"}
HEAD = {"log_variance_of.weight", "log_variance_of.bias"}


def staged(names: set[str], num_stages: int) -> set[str]:
    return {f"stages.{stage}.{name}" for stage in range(num_stages) for name in names}


def residual(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**RESIDUAL, "base": base, **changes}


def multi(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Over a base of half the dimension."""
    return {**MULTI, "base": {**base, "dim": DIM // 2}, **changes}


def grouped(names: set[str], num_groups: int = 2) -> set[str]:
    return {f"bases.{group}.{name}" for group in range(num_groups) for name in names}


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
DIVEQ = {
    "kind": "diveq",
    "dim": DIM,
    "num_codes": 16,
    "space_filling": False,
    "noise_variance": 0.001,
    "init": "uniform",
    "replacement": None,
}
REPLACEMENT = {"every": 2, "threshold": 0.6, "spread": 0.1}
FVQ = {
    "kind": "fvq",
    **COMMON,
    "num_codes": 24,
    "patch": 3,
    "width": 12,
    "depth": 2,
    "heads": 2,
    "init": "standard",
}
WASSERSTEIN = {"kind": "wasserstein", **LEARNED, "weight": 0.5, "scale": "none", "moves": "codes"}
SIM_VQ = {"kind": "sim_vq", **LEARNED, "bias": False, "init": "standard"}
TURNED = {"estimator": "rotation"}

VECTORS = {"adjective_vectors", "noun_vectors"}
SINGLE = {**VQCT, "codebooks": "single"}
WORDS_ALONE = {**SINGLE, "transfer": {"kind": "none"}}
BARE = {**LC, "projector": False}
UNIFORM = {**LC, "source": "uniform", "distance": "euclidean"}


def short(dim: int) -> Recipe:
    """Centroids of the quantizer's own dimension, used as they are."""
    whole = patches()
    return Recipe(BARE, type(whole)(whole.vectors[:, :dim].contiguous(), whole.counts, {}))


T = TypeVar("T", bound=Tokenizer)


RECIPES: dict[str, dict[str, Recipe]] = {
    "bsq": {
        "paper": Recipe(BSQ, identity=False),
        "pairs-commitment": Recipe({**BSQ, "joint_bits": 2, "commitment_weight": 0.25}, identity=False),
        "exact": Recipe({**BSQ, "joint_bits": DIM}, identity=False),
        "no-entropy": Recipe({**BSQ, "entropy_weight": 0.0, "commitment_weight": 0.25}, identity=False),
    },
    "cvq": {
        "closest": Recipe(CVQ, None, {"codes"}),
        "probrandom-contrastive": Recipe(
            {**CVQ, "anchor": "probrandom", "distance": "cosine", "contrastive": CONTRASTIVE}, None, {"codes"}
        ),
        "random-data": Recipe({**CVQ, "anchor": "random", "init": "data"}, None, {"codes"}),
        "lg-vq": Recipe({**CVQ, "anchor": "probrandom", "contrastive": CONTRASTIVE}, None, {"codes"}),
    },
    "diveq": {
        "paper": Recipe(DIVEQ, None, {"points"}),
        "data-replacement": Recipe({**DIVEQ, "init": "data", "replacement": REPLACEMENT}, None, {"points"}),
        "no-noise": Recipe({**DIVEQ, "noise_variance": 0.0}, None, {"points"}),
        "segments": Recipe({**DIVEQ, "space_filling": True}, None, {"points"}),
        "segments-data": Recipe({**DIVEQ, "space_filling": True, "init": "data"}, None, {"points"}),
    },
    "ema": {
        "uniform": Recipe(EMA),
        "data": Recipe({**EMA, "init": "data"}),
        "restart": Recipe({**EMA, "restart": RESTART}),
        "reference": Recipe({**EMA, "initial_size": 0}),
    },
    "fc": {
        "sphere": Recipe(FC, None, {"codes"}, identity=False),
        "sphere-data": Recipe({**FC, "init": "data", "num_codes": 70}, None, {"codes"}, identity=False),
        "plain": Recipe({**FC, "normalise": False, "beta_on": "codebook", "beta": 0.33}, None, {"codes"}),
    },
    "fsq": {
        "port": Recipe(FSQ),
        "paper": Recipe({**FSQ, "margin": -0.001, "shift": "tan"}),
        "ifsq": Recipe({**FSQ, "levels": [5, 3, 9, 3, 3, 3, 5, 17], "margin": 0.0, "slope": 0.8}),
    },
    "fvq": {
        "patches": Recipe(FVQ, None, None),
        "data-one-group": Recipe({**FVQ, "patch": 24, "depth": 1, "init": "data"}, None, None),
    },
    "gumbel": {
        "soft": Recipe(GUMBEL, None, CONVOLUTION),
        "hard": Recipe({**GUMBEL, "hard": True, "kl_warmup": 0.1}, None, CONVOLUTION),
    },
    "ibq": {
        "uniform": Recipe(IBQ, None, {"codes"}),
        "data-no-entropy": Recipe({**IBQ, "init": "data", "entropy_weight": 0.0}, None, {"codes"}),
        "normal": Recipe({**IBQ, "init": "normal"}, None, {"codes"}),
    },
    "lc": {
        "paper": Recipe({**LC, "beta": 0.33, "beta_on": "codebook"}, patches(), PROJECTOR),
        "reference": Recipe({**LC, "distance": "euclidean", "init": "reference"}, patches(), PROJECTOR),
        "normalised": Recipe(
            {**LC, "distance": "euclidean", "normalise": True}, patches(), PROJECTOR, identity=False
        ),
        "normalised-data": Recipe(
            {**LC, "init": "data", "normalise": True}, patches(), PROJECTOR, identity=False
        ),
        "random-code": Recipe({**UNIFORM, "projector": False}),
        "random-code-linear": Recipe({**UNIFORM, "init": "reference"}, None, PROJECTOR),
        "random-code-data": Recipe({**UNIFORM, "init": "data"}, None, PROJECTOR),
        "data": Recipe({**LC, "init": "data"}, patches(), PROJECTOR),
        "rotation": Recipe({**LC, **TURNED}, patches(), PROJECTOR, identity=False),
        "trainable": Recipe({**LC, "trainable": True}, patches(), PROJECTOR | {"centroids"}),
        "random-data": Recipe({**LC, "source": "random", "init": "data"}, patches(), PROJECTOR),
        "random-trainable-euclidean": Recipe(
            {**LC, "source": "random", "trainable": True, "distance": "euclidean"},
            patches(), PROJECTOR | {"centroids"},
        ),
        "no-projector": short(8),
        "no-projector-normalised": Recipe({**BARE, "normalise": True}, short(8).codebook, identity=False),
        "no-projector-trainable": Recipe({**BARE, "trainable": True}, short(8).codebook, {"centroids"}),
    },
    "lfq": {
        "entropy": Recipe(LFQ),
        "commitment": Recipe({**LFQ, "entropy_weight": 0.0}),
    },
    "multi": {
        "unitok": Recipe(multi(FC), None, grouped({"codes"}), identity=False),
        "vq-data-sum": Recipe(multi({**VQ, "init": "data"}, reduce="sum"), None, grouped({"codes"})),
        "vq-rotation": Recipe(multi({**VQ, **TURNED}), None, grouped({"codes"}), identity=False),
        "wetok": Recipe(multi(LFQ)),
        "bsq": Recipe(multi(BSQ), identity=False),
        "fsq": Recipe(multi({**FSQ, "levels": [8, 5, 3, 4]})),
        "gumbel": Recipe(multi(GUMBEL), None, grouped(CONVOLUTION)),
        "ema": Recipe(multi({**EMA, "restart": RESTART})),
        "lc": Recipe(multi(LC), patches(), grouped(PROJECTOR)),
        "vqct": Recipe(multi(VQCT), words(), grouped(LAYERS), named=True),
    },
    "reg_vq": {
        "reverse": Recipe(REG_VQ, None, {"codes"}),
        "paper": Recipe({**REG_VQ, "divergence": "paper"}, None, {"codes"}),
        "data-no-divergence": Recipe({**REG_VQ, "init": "data", "prior_weight": 0.0}, None, {"codes"}),
    },
    "residual": {
        "vq": Recipe(RESIDUAL, None, staged({"codes"}, 3)),
        "vq-shared-data": Recipe(
            residual({**VQ, "init": "data"}, shared=True, reduce="mean"), None, staged({"codes"}, 1)
        ),
        "gumbel": Recipe(residual({**GUMBEL, "hard": True}, num_stages=2), None, staged(CONVOLUTION, 2)),
        "fsq": Recipe(residual({**FSQ, "levels": [5] * DIM}, num_stages=2, stage_scale=0.25)),
        "lfq": Recipe(residual(LFQ, num_stages=2, stage_scale=0.5)),
        "lc": Recipe(residual(LC, num_stages=2), patches(), staged(PROJECTOR, 2)),
        "vqct": Recipe(residual(VQCT, num_stages=2), words(), staged(LAYERS, 2), named=True),
        "ema": Recipe(residual({**EMA, "restart": RESTART})),
        "ema-shared": Recipe(residual(EMA, shared=True)),
        "diveq": Recipe(residual(DIVEQ, num_stages=2), None, staged({"points"}, 2)),
        "wasserstein-data": Recipe(
            residual({**WASSERSTEIN, "init": "data"}, num_stages=2), None, staged({"codes"}, 2)
        ),
        "cvq-shared": Recipe(residual(CVQ, shared=True), None, staged({"codes"}, 1)),
        "vqct-rotation": Recipe(
            residual({**VQCT, **TURNED}, num_stages=2), words(), staged(LAYERS, 2), named=True, identity=False
        ),
        "vqct-two-adjectives": Recipe(
            residual({**VQCT, "topk_adjectives": 2}, num_stages=2), words(), staged(LAYERS, 2), named=True
        ),
        "multi": Recipe(residual(multi(VQ), num_stages=2), None, staged(grouped({"codes"}), 2)),
        "lc-no-projector": Recipe(residual(BARE, num_stages=2), short(8).codebook),
    },
    "sim_vq": {
        "paper": Recipe(SIM_VQ, None, {"map.weight"}),
        "data": Recipe({**SIM_VQ, "bias": True, "init": "data"}, None, {"map.weight", "map.bias"}),
    },
    "sq_vae": {
        "global": Recipe(SQ_VAE, None, {"codes", "log_variance"}),
        "position-data": Recipe(
            {**SQ_VAE, "variance": "position", "init": "data"}, None, {"codes", "log_variance"} | HEAD
        ),
    },
    "vq": {
        "uniform": Recipe(VQ, None, {"codes"}),
        "data": Recipe({**VQ, "init": "data", "num_codes": 70}, None, {"codes"}),
        "legacy": Recipe({**VQ, "beta_on": "codebook"}, None, {"codes"}),
        "rotation": Recipe({**VQ, **TURNED}, None, {"codes"}, identity=False),
    },
    "vqct": {
        "paper": Recipe(VQCT, words(), LAYERS, named=True),
        "paper-data": Recipe({**VQCT, "init": "data"}, words(), LAYERS, named=True),
        "reference": Recipe({**VQCT, "transfer": REFERENCE}, words(), TWO, named=True),
        "graph-weights": Recipe({**VQCT, "transfer": {**GCN, "edge_weights": "graph"}}, words(), LAYERS, named=True),
        "mlp-data": Recipe({**VQCT, "transfer": MLP, "init": "data"}, words(), TWO, named=True),
        "rotation": Recipe({**VQCT, **TURNED}, words(), LAYERS, named=True, identity=False),
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
    "wasserstein": {
        "paper": Recipe(WASSERSTEIN, None, {"codes"}),
        "public-code-data": Recipe({**WASSERSTEIN, "scale": "codes", "init": "data"}, None, {"codes"}),
        "both": Recipe({**WASSERSTEIN, "moves": "both"}, None, {"codes"}),
    },
}  # fmt: skip
"""Recipes by kind and by name."""


PRETRAINED = {"none": None, "words": words(), "patches": patches()}
"""The pretrained codebook that the params ask for."""


def example(kind: str) -> Recipe:
    """The example that a quantizer's class gives."""
    params = dict(QUANTIZERS[kind].about.example)
    needed = validate(params, "example", AnyQuantizer).codebook
    return Recipe(params, PRETRAINED[needed], trained=None, named=needed == "words", identity=False)


def every_recipe() -> dict[str, Recipe]:
    """Recipes by `kind-name`, and `kind-example` of the quantizers without recipes."""
    by_kind = {kind: RECIPES.get(kind, {"example": example(kind)}) for kind in sorted(QUANTIZERS)}
    return {f"{kind}-{name}": own[name] for kind, own in by_kind.items() for name in sorted(own)}


def make_tokenizer(recipe: Recipe, cls: type[T] = Tokenizer, **changes: Any) -> T:  # type: ignore[assignment]
    """A tiny tokenizer of a recipe in eval mode, initialised from data where the recipe asks for it."""
    quantizer = validate(recipe.params, "quantizer", AnyQuantizer)
    section = {**TOKENIZER, "quantizer": recipe.params, "codebook": quantizer.codebook, **changes}
    config = validate(section, "tokenizer", TokenizerParams)
    torch.manual_seed(0)
    tokenizer = cls(config, build(config.quantizer, recipe.codebook))
    side = config.resolution
    tokenizer.train()(torch.rand(8, 3, side, side) * 2 - 1)
    return tokenizer.eval().requires_grad_(False)
