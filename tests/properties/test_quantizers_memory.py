"""What a quantizer holds at once in a training step is bounded by the tile, not by latents x codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.storage import LargestOutput
from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.codebooks.patches import PatchesCodebook
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.params.base import validate
from vqpipe.quantizers import QUANTIZERS, AnyQuantizer, build

K, DIM, ROWS = 30_000, 4, 2048
SCORES = ROWS * K * 4
"""Bytes of a matrix of all scores: 246 MB."""
LIMIT = 24 << 20
"""The largest tile of any method (16 MB on a CPU), and room for tensors of n x d or K x d, of half a MB each."""
LEARNED = {"dim": DIM, "beta": 0.25, "beta_on": "commitment", "num_codes": K}
EMA = {
    "kind": "ema",
    "dim": DIM,
    "beta": 0.25,
    "num_codes": K,
    "decay": 0.99,
    "epsilon": 1e-5,
    "init": "uniform",
}
CVQ = {"kind": "cvq", **LEARNED, "init": "uniform", "decay": 0.99}


def many_words() -> WordsCodebook:
    half = K // 2
    return WordsCodebook(
        [f"a{i}" for i in range(half)], [f"n{i}" for i in range(half)], torch.randn(half, 8), torch.randn(half, 8),
        torch.randint(half, (2, half)), torch.ones(half),
    )  # fmt: skip


CASES: dict[str, dict[str, Any]] = {
    "vq": {"kind": "vq", **LEARNED, "init": "uniform"},
    "vq rotation": {"kind": "vq", **LEARNED, "init": "uniform", "estimator": "rotation"},
    "ema restart": {**EMA, "restart": {"threshold": 0.1, "every": 1}},
    "fc": {"kind": "fc", **LEARNED, "init": "uniform", "normalise": True},
    "cvq closest": {**CVQ, "anchor": "closest", "contrastive": None},
    "cvq random": {**CVQ, "anchor": "random", "contrastive": {"weight": 1.0, "temperature": 0.07}},
    "cvq probrandom": {**CVQ, "anchor": "probrandom", "contrastive": None},
    "reg_vq": {
        "kind": "reg_vq", **LEARNED, "init": "uniform", "temperature": {"kind": "constant", "value": 1.0},
        "prior_weight": 1.0, "stochastic_share": 0.5,
    },
    "sim_vq": {"kind": "sim_vq", **LEARNED, "bias": False, "init": "standard"},
    "fvq": {
        "kind": "fvq", **LEARNED, "patch": 30, "width": 16, "depth": 2, "heads": 2, "init": "standard",
    },
    "lc cosine": {"kind": "lc", **LEARNED, "distance": "cosine", "init": "data"},
    "vqct": {
        "kind": "vqct", "dim": 2 * DIM, "beta": 0.25, "beta_on": "commitment", "init": "standard",
        "transfer": {
            "kind": "gcn", "num_layers": 2, "hidden_dim": 8, "final_relu": False, "dropout": 0.0,
            "edge_weights": "binary",
        },
    },
    "multi": {
        "kind": "multi", "num_groups": 2, "reduce": "mean",
        "base": {"kind": "fc", **LEARNED, "init": "uniform", "normalise": True},
    },
    "residual": {
        "kind": "residual", "num_stages": 2, "shared": False, "reduce": "sum",
        "base": {"kind": "vq", **LEARNED, "init": "uniform"},
    },
}  # fmt: skip
COVERED = {params["kind"] for params in CASES.values()}
for kind in QUANTIZERS:
    example = QUANTIZERS[kind].about.example
    if kind not in COVERED and "num_codes" in example:
        CASES[kind] = {**example, "dim": DIM, "num_codes": K}


def codebook_for(kind: str) -> PretrainedCodebook:
    if kind == "lc":
        return PatchesCodebook(torch.randn(K, 8), torch.ones(K, dtype=torch.int64), {})
    return many_words() if kind == "vqct" else None


@pytest.mark.parametrize("name", CASES)
def test_a_training_step_holds_no_more_than_tiles(name: str) -> None:
    torch.manual_seed(0)
    params = CASES[name]
    quantizer = build(validate(params, "quantizer", AnyQuantizer), codebook_for(params["kind"])).train()  # type: ignore[arg-type]
    z = torch.randn(ROWS // 64, quantizer.dim, 8, 8, requires_grad=True)
    quantizer.initialise(z.detach())
    with LargestOutput() as outputs:
        result = quantizer(z, 0.5)
        loss: Tensor = result.loss + result.z_q.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert outputs.peak >= K * DIM * 4 // 2  # the recorder saw the codes at least
    assert outputs.peak <= LIMIT < SCORES / 8, f"{outputs.peak / 1e6:.0f} MB at once"
