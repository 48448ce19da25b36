"""Regularised quantisation: codes drawn towards even use, and a share of positions that are sampled.

Paper: Regularized Vector Quantization for Tokenized Image Synthesis, CVPR 2023, arXiv 2303.06424, sections 3.2 and
3.3.

Each latent has a distribution over codes, q_i = softmax_k(-|z_i - e_k|^2 / temperature).

- Prior distribution regularisation: the divergence of the batch's mean distribution from the uniform one,

      prior = KL(uniform | q) = -log K - 1/K sum_k log q_k,   q = mean_i q_i,

  in nats. A code that no latent is likely to take makes it large, so it works against collapse. It moves latents and
  codes. The mean is over all ranks, and is taken in the log domain, so that no code is too far to be drawn nearer.
  With `divergence: paper` it is the paper's equation 1, which differs in two ways. It is the other direction,

      prior = KL(p | uniform) = sum_k p_k log(K p_k),

  which is at most log K; and p is the mean of the one-hot choices, masked ones as they were sampled, with the gradient
  of q (algorithm 1 passes a softmax's back through a choice). 1e-10 is added to p_k in the logarithm, since it is 0 for
  codes that were not chosen; the paper gives no value. Two departures are left: the paper's mean is over the positions
  of one image, here it is over those of the batch of all ranks; and at masked positions the paper has the gradient of
  the Gumbel softmax that was drawn, here it is that of q_i.
- Stochastic mask regularisation: in training each position is masked with probability `stochastic_share`; a masked
  one takes a code drawn from q_i (by Gumbel noise), the rest the nearest, as all do in eval.

In addition the losses of `vq`, and its gradient from z_q to z, at masked positions too; in the paper z_q has the
gradient of a softmax, and of a Gumbel softmax at masked positions (algorithm 1).

Left out: the paper's probabilistic contrastive loss, which weighs a loss between the features of the image and of its
reconstruction, since it belongs to the reconstruction and not to the quantizer.

Training passes compute n x K values, a tile of rows at a time (`vqpipe.quantizers.soft`).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from vqpipe.quantizers.contract import About
from vqpipe.quantizers.estimators import straight_through
from vqpipe.quantizers.nearest import LEARNED_EXAMPLE, LearnedCodesParams, LearnedCodesQuantizer
from vqpipe.quantizers.soft import ScheduleParams, gumbel_noise, in_row_tiles, mean_over_ranks, value_at
from vqpipe.runtime.distributed import gather, world_size
from vqpipe.runtime.host import count_codes, send

TINY = 1e-10
"""Added to a share before its logarithm is taken."""


class RegVqParams(LearnedCodesParams):
    """Codes drawn towards even use, and a share of sampled positions (Regularized VQ)."""

    kind: Literal["reg_vq"]
    temperature: ScheduleParams
    """Of the distribution softmax(-|z - e|^2 / temperature) of each latent over codes."""
    prior_weight: float = Field(ge=0)
    """Weight of the divergence of the batch's mean distribution from the uniform one, in nats (the paper's prior
    distribution regularisation). 0 leaves it out."""
    stochastic_share: float = Field(ge=0, le=1)
    """Share of the positions that take a sampled code in training, the rest the nearest; 0: none, 0.4: best in the
    paper's figure 3. Which they are is drawn from torch's global CPU generator."""
    divergence: Literal["reverse", "paper"] = "reverse"
    """From the uniform distribution: `paper`, KL(p | uniform) of equation 1, p the mean of the choices made; or
    `reverse`, KL(uniform | q), q the mean of the distributions, whose gradient is largest for codes out of reach."""


class RegularisedQuantizer(LearnedCodesQuantizer):
    """One group; the codes are a parameter of shape (K, d). `progress` drives the temperature."""

    kind = "reg_vq"
    Params = RegVqParams
    about = About(
        title="Reg-VQ",
        codes="a parameter, drawn towards even use of the codes",
        moved_by="its codebook loss and the divergence from even use",
        papers="Regularized VQ 2303.06424",
        example={
            "kind": "reg_vq", **LEARNED_EXAMPLE, "temperature": {"kind": "constant", "value": 1.0},
            "prior_weight": 0.1, "stochastic_share": 0.2,
        },
    )  # fmt: skip

    def __init__(self, config: RegVqParams) -> None:
        super().__init__(config)
        self.config = config

    def search_in_training(
        self, rows: Float[Tensor, "n d"], codes: Float[Tensor, "K d"], progress: float
    ) -> Int64[Tensor, " n"]:
        """See `NearestCodeQuantizer.search_in_training`: the nearest code, and a sampled one at masked positions."""
        indices = self.search(rows, codes)
        if self.config.stochastic_share == 0:
            return indices
        # The host draws the mask, so that it knows how many positions there are without waiting.
        masked = torch.rand(len(rows)) < self.config.stochastic_share
        places = send(masked.nonzero()[:, 0], rows.device)
        indices[places] = self._sample(rows[places], codes, progress)
        return indices

    def losses(
        self,
        rows: Float[Tensor, "n d"],
        codes: Float[Tensor, "K d"],
        indices: Int64[Tensor, " n"],
        progress: float,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """See `NearestCodeQuantizer.losses`: with the divergence from the uniform distribution."""
        loss, terms = super().losses(rows, codes, indices, progress)
        if self.config.prior_weight > 0:
            if self.config.divergence == "paper":
                divergence = self._of_choices(rows, codes, indices, progress)
            else:
                divergence = self._divergence(rows, codes, progress)
            loss = loss + self.config.prior_weight * divergence
            terms["prior"] = divergence.detach()
        return loss, terms

    def _sample(self, rows: Tensor, codes: Tensor, progress: float) -> Tensor:
        def step(part: Tensor) -> tuple[Tensor]:
            logits = self._logits(part, codes, progress)
            return ((logits + gumbel_noise(logits)).argmax(1),)

        return torch.cat([found for (found,) in in_row_tiles(step, rows, len(codes))])

    def _divergence(self, rows: Tensor, codes: Tensor, progress: float) -> Tensor:
        def step(part: Tensor) -> tuple[Tensor]:
            return (self._logits(part, codes, progress).log_softmax(1).logsumexp(0, keepdim=True),)

        parts = [found for (found,) in in_row_tiles(step, rows, len(codes))]
        logs = torch.cat(parts).logsumexp(0) - math.log(len(rows))
        if self.training:
            logs = log_mean_over_ranks(logs)
        return -math.log(len(codes)) - logs.mean()

    def _of_choices(self, rows: Tensor, codes: Tensor, indices: Tensor, progress: float) -> Tensor:
        """The paper's equation 1, in nats: KL(p | uniform), p the mean of the one-hot choices with q's gradient."""

        def step(part: Tensor) -> tuple[Tensor]:
            return (self._logits(part, codes, progress).softmax(1).sum(0, keepdim=True),)

        parts = [found for (found,) in in_row_tiles(step, rows, len(codes))]
        chosen = count_codes(indices, len(codes)) / len(rows)
        shares = straight_through(torch.cat(parts).sum(0) / len(rows), chosen)
        shares = mean_over_ranks(shares, self.training)
        return (shares * (len(codes) * (shares + TINY)).log()).sum()

    def _logits(self, rows: Tensor, codes: Tensor, progress: float) -> Tensor:
        """-|z - e|^2 / temperature without |z|^2, which is the same for all codes."""
        scores = rows @ codes.T - codes.square().sum(1) / 2
        return scores * (2 / value_at(self.config.temperature, progress))


def log_mean_over_ranks(logs: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
    """log(mean over ranks of exp(logs)), where each rank has equally many rows.

    The gradient is that of the mean, exp(own - result), to this rank's: after the usual averaging of the ranks'
    gradients it is that of one process that sees all rows.
    """
    if world_size() == 1:
        return logs
    mean = gather(logs[None]).logsumexp(0) - math.log(world_size())
    return straight_through(logs * torch.exp(logs.detach() - mean), mean)
