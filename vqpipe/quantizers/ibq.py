"""Index backpropagation: all codes are updated, through the softmax over all of them.

Paper: IBQ, Taming Scalable Visual Tokenizer for Autoregressive Image Generation, arXiv 2412.02692, section 3.2.

With p = softmax_k(z . e_k), z_q is the code of the largest product with the gradient of (onehot + p - sg(p)) @
codes: to the chosen code directly, and through p to z and to every code. The losses, means over all elements:

    double quantisation = (z_q - z)^2 + (z - sg(e))^2 + beta (sg(z) - e)^2

where z_q carries that gradient and e is the chosen code with a plain one. Their values are the same number, the
term `distance`. The entropy penalty is that of MAGVIT-v2 on the distributions softmax(inverse_temperature * z .
e_k): sample_weight * E[H(p)] - batch_weight * H(E[p]). E[p] is taken over all ranks.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vqpipe.quantizers.contract import About
from vqpipe.quantizers.soft import (
    Assigned,
    EntropyParams,
    SoftCodeParams,
    SoftCodeQuantizer,
    entropy,
    hard_mixture,
    in_row_tiles,
    mean_over_ranks,
)


class IbqParams(SoftCodeParams, EntropyParams):
    """Index backpropagation: every code gets a gradient through the softmax over all of them (IBQ)."""

    kind: Literal["ibq"]
    beta: float = Field(ge=0)
    """Weight of the codebook term |sg(z) - e|^2; common: 0.25."""
    init: Literal["uniform", "data", "normal"]
    """Codes at the start: `uniform` in +-1/K; `data`: latents of the first batch drawn at random; or `normal`: N(0, 1),
    as in the public code."""


class IndexBackpropagationQuantizer(SoftCodeQuantizer):
    """One group; nothing is sampled, so training and eval give the same codes.

    Passes compute n x K probabilities (`vqpipe.quantizers.soft`).
    """

    kind = "ibq"
    Params = IbqParams
    about = About(
        title="IBQ",
        codes="a parameter",
        moved_by="every code, through the softmax over all of them",
        papers="IBQ 2412.02692",
        example={
            "kind": "ibq", "dim": 8, "num_codes": 16, "beta": 0.25, "init": "uniform", "entropy_weight": 0.05,
            "sample_weight": 1.0, "batch_weight": 1.0, "inverse_temperature": 2.0,
        },
    )  # fmt: skip

    def __init__(self, config: IbqParams) -> None:
        super().__init__(config, data_init=config.init == "data")
        self.config = config
        if config.init != "normal":
            nn.init.uniform_(self.codes, -1 / config.num_codes, 1 / config.num_codes)

    def scores(self, rows: Float[Tensor, "r d"]) -> Float[Tensor, "r K"]:
        """See `SoftCodeQuantizer.scores`: the products z . e_k."""
        return rows @ self.codes.T

    def assign(self, rows: Float[Tensor, "n d"], progress: float) -> Assigned:
        """See `SoftCodeQuantizer.assign`; nothing is annealed, so `progress` has no effect."""
        penalised = self.config.entropy_weight > 0

        def step(part: Tensor) -> tuple[Tensor, ...]:
            logits = self.scores(part)
            index = logits.argmax(-1)
            z_q = hard_mixture(logits.softmax(-1), index, self.codes)
            if not penalised:
                return z_q, index
            logs = (logits * self.config.inverse_temperature).log_softmax(-1)
            probabilities = logs.exp()
            return z_q, index, -(probabilities * logs).sum(-1), probabilities.sum(0, keepdim=True)

        parts = in_row_tiles(step, rows, self.num_codes[0])
        z_q, index, *rest = (torch.cat(values) for values in zip(*parts, strict=True))
        chosen = F.embedding(index, self.codes)
        distance = F.mse_loss(z_q, rows)
        loss = distance + F.mse_loss(rows, chosen.detach())
        loss = loss + self.config.beta * F.mse_loss(chosen, rows.detach())
        terms = {"distance": distance.detach()}
        if penalised:
            sample = rest[0].mean()
            batch = entropy(mean_over_ranks(rest[1].sum(0) / rows.shape[0], self.training))
            penalty = self.config.sample_weight * sample - self.config.batch_weight * batch
            loss = loss + self.config.entropy_weight * penalty
            terms |= {"sample_entropy": sample.detach(), "batch_entropy": batch.detach()}
        return Assigned(z_q, index, loss, terms)
