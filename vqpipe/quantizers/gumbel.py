"""Codes sampled from logits by Gumbel-softmax.

Papers: Categorical Reparameterization with Gumbel-Softmax, arXiv 1611.01144; as an image tokenizer DALL-E's, arXiv
2102.12092, section 2.1, and Gumbel-VQ of VQGAN's public code.

A 1x1 convolution maps z to K logits l. In training, with Gumbel noise g and temperature t, y = softmax((l + g) /
t), and z_q is the mixture y @ codes, or with `hard` the code of the largest y with the mixture's gradient. In eval
z_q is the code of the largest logit. The loss is KL(softmax(l) | uniform) = sum_k q_k (log q_k + log K), a sum over
codes and a mean over positions, in nats.

The loss moves the convolution and the encoder; codes learn only through z_q. Nothing is shared between ranks: each
draws noise of its own, and the loss is a mean over positions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqpipe.params.quantizers.soft import GumbelParams
from vqpipe.quantizers.schedules import rise, value_at
from vqpipe.quantizers.soft import Assigned, SoftCodeQuantizer, gumbel_noise, hard_mixture
from vqpipe.quantizers.tiles import in_row_tiles


class GumbelQuantizer(SoftCodeQuantizer):
    """One group; the codes (standard normal at the start) and the convolution are trained.

    Not a nearest-code method: no search bounds the n x K values of its pass; see `vqpipe.quantizers.soft`.
    """

    kind = "gumbel"

    def __init__(self, config: GumbelParams) -> None:
        super().__init__(config)
        self.config = config
        self.logits = nn.Conv2d(config.dim, config.num_codes, 1)

    def assign(self, rows: Float[Tensor, "n d"], progress: float) -> Assigned:
        """See `SoftCodeQuantizer.assign`."""
        temperature = value_at(self.config.temperature, progress)

        def step(part: Tensor) -> tuple[Tensor, ...]:
            logits = F.linear(part, self.logits.weight.flatten(1), self.logits.bias)
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
