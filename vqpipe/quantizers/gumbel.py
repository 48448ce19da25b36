"""Codes sampled from logits by Gumbel-softmax.

Papers: Categorical Reparameterization with Gumbel-Softmax, arXiv 1611.01144; as an image tokenizer DALL-E's, arXiv
2102.12092, section 2.1, and Gumbel-VQ of VQGAN's public code.

A 1x1 convolution maps z to K logits l. In training, with Gumbel noise g and temperature t, y = softmax((l + g) /
t), and z_q is the mixture y @ codes, or with `hard` the code of the largest y with the mixture's gradient. In eval
z_q is the code of the largest logit; VQGAN's public code draws noise there too, so that two passes differ. The loss is
KL(softmax(l) | uniform) = sum_k q_k (log q_k + log K), a sum over codes and a mean over positions, in nats.

The loss moves the convolution and the encoder; codes learn only through z_q. Nothing is shared between ranks: each
draws noise of its own, and the loss is a mean over positions.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vqpipe.quantizers.contract import About
from vqpipe.quantizers.soft import (
    Assigned,
    ScheduleParams,
    SoftCodeParams,
    SoftCodeQuantizer,
    gumbel_noise,
    hard_mixture,
    in_row_tiles,
    rise,
    value_at,
)


class GumbelParams(SoftCodeParams):
    """Logits of a 1x1 convolution, sampled by Gumbel-softmax (Gumbel-VQ)."""

    kind: Literal["gumbel"]
    temperature: ScheduleParams
    """Of the Gumbel-softmax. VQGAN's f8-8192 config: cosine from 0.9 to 1e-6; DALL-E: cosine from 1 to
    1/16."""
    kl_weight: float = Field(ge=0)
    """Weight of the divergence to uniform, in nats per position. VQGAN's f8-8192 config: 1e-8; its class
    default: 5e-4."""
    kl_warmup: float | None = Field(default=None, gt=0, le=1)
    """Share of the training over which the weight rises from 0 along half a cosine; None: full from the
    start."""
    hard: bool
    """In training: true gives the sampled code with the soft sample's gradient (straight-through), false the
    mixture of codes. In eval it is always the code of the largest logit."""


class GumbelQuantizer(SoftCodeQuantizer):
    """One group; the codes (standard normal at the start) and the convolution are trained.

    Not a nearest-code method: no search bounds the n x K values of its pass; see `vqpipe.quantizers.soft`.
    """

    kind = "gumbel"
    Params = GumbelParams
    about = About(
        title="Gumbel-VQ",
        codes="a parameter; indices from logits",
        moved_by="the reconstruction, through a Gumbel-softmax",
        papers="1611.01144, DALL-E 2102.12092",
        example={
            "kind": "gumbel", "dim": 8, "num_codes": 16, "temperature": {"kind": "cosine", "start": 0.9, "end": 0.1},
            "kl_weight": 0.01, "hard": False,
        },
    )  # fmt: skip

    def __init__(self, config: GumbelParams) -> None:
        super().__init__(config)
        self.config = config
        self.logits = nn.Conv2d(config.dim, config.num_codes, 1)

    def scores(self, rows: Float[Tensor, "r d"]) -> Float[Tensor, "r K"]:
        """See `SoftCodeQuantizer.scores`: the logits."""
        return F.linear(rows, self.logits.weight.flatten(1), self.logits.bias)

    def continuous(self, z: Float[Tensor, "b d h w"]) -> None:
        """See `Quantizer.continuous`: there is none, since z gives logits and is nowhere near a code."""
        return None

    def assign(self, rows: Float[Tensor, "n d"], progress: float) -> Assigned:
        """See `SoftCodeQuantizer.assign`."""
        temperature = value_at(self.config.temperature, progress)

        def step(part: Tensor) -> tuple[Tensor, ...]:
            logits = self.scores(part)
            logs = logits.log_softmax(-1)
            kl = (logs.exp() * (logs + math.log(self.num_codes[0]))).sum(-1)
            scores = logits + gumbel_noise(logits) if self.training else logits
            index = scores.argmax(-1)
            weights = (scores / temperature).softmax(-1)
            if self.training and not self.config.hard:
                return weights @ self.codes, index, kl
            return hard_mixture(weights, index, self.codes), index, kl

        parts = in_row_tiles(step, rows, self.num_codes[0])
        z_q, index, kl = (torch.cat(values) for values in zip(*parts, strict=True))
        divergence = kl.mean()
        loss = self.config.kl_weight * rise(self.config.kl_warmup, progress) * divergence
        return Assigned(z_q, index, loss, {"kl": divergence.detach()})
