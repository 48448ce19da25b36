"""Online clustered codebook: codes that are hardly used move to where the latents are.

Paper: CVQ-VAE, Online Clustered Codebook, arXiv 2307.15139, section 3.2.

After each training pass, with f_k the share of the batch of all ranks that takes code k and a_k its anchor, a latent
of that batch:

    p_k     <- decay p_k + (1 - decay) f_k                     running usage, 0 at the start
    alpha_k  = exp(-10 p_k K / (1 - decay) - 0.001)            near 1 for a dead code, 0 for one that is used
    e_k     <- (1 - alpha_k) e_k + alpha_k a_k                 in place, without gradient

The similarity s_ik of latent and code is -|z_i - e_k|^2, or their cosine with `distance: cosine`; the search goes
by the same. The anchor is the most similar latent (`closest`); one drawn with probability softmax_i(s_ik)
(`probrandom`); or any (`random`: each latent as seldom as possible; the reference code draws from a pool that also
has latents of past steps, which is left out). Codes are also trained by the losses of `vq`, with respect to the
codes as they were in the pass. In eval nothing moves.

The contrastive term draws codes to latents that are near and away from those that are far. Of the n values s_ik /
temperature of a code, the positive s+ is the mean of the largest max(1, n // K), the negatives are the lowest n // 2,
and

    contrastive = mean_k -log(exp(s+) / (exp(s+) + sum_negatives exp(s)))

It moves codes alone: latents have no gradient from it. In training it is that of the batch of all ranks. Which
values are positive and negative, and that s+ is part of the denominator, is the reference code's form.

Both look at K x n values, a tile of codes at a time (`vqpipe.quantizers.soft`), so that memory is bounded.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from vqpipe.codebooks.search import Metric, nearest
from vqpipe.params.base import Params
from vqpipe.quantizers.contract import About
from vqpipe.quantizers.moments import draw_order
from vqpipe.quantizers.nearest import LEARNED_EXAMPLE, LearnedCodesParams, LearnedCodesQuantizer, unit
from vqpipe.quantizers.soft import gumbel_noise, in_row_tiles
from vqpipe.runtime.distributed import broadcast, gather
from vqpipe.runtime.host import count_codes


class ContrastiveParams(Params):
    """A term that draws each code to its nearest latents and away from the far half."""

    weight: float = Field(gt=0)
    """Of the term; 1 in the reference code."""
    temperature: float = Field(gt=0)
    """Of the similarities; 0.07 in the paper."""


class CvqParams(LearnedCodesParams):
    """Codes that are hardly used move to latents of the batch, the less used the further (CVQ-VAE)."""

    kind: Literal["cvq"]
    anchor: Literal["closest", "probrandom", "random"]
    """The latent that a code moves to: its `closest`; `probrandom`, drawn by softmax over the similarities; or
    `random`, any. By `euclidean` distance, codes that start close together share a closest latent: there use `init:
    data`. LG-VQ's and VQCT's public code draw it (`probrandom`), from `init: uniform`."""
    distance: Literal["cosine", "euclidean"] = "euclidean"
    """What is near and similar, in the search, for anchors and in the contrastive term: minus the squared distance
    (`euclidean`; LG-VQ's and VQCT's public code), or the cosine (the default of CVQ-VAE's)."""
    decay: float = Field(gt=0, lt=1)
    """Of the running usage; 0.99 in the paper."""
    contrastive: ContrastiveParams | None
    """The contrastive term; None leaves it out. LG-VQ's and VQCT's public code have it: weight 1, temperature 0.07."""


class OnlineClusteredQuantizer(LearnedCodesQuantizer):
    """One group; the codes are a parameter of shape (K, d), the running usage (K,) is a buffer."""

    kind = "cvq"
    Params = CvqParams
    about = About(
        title="CVQ",
        codes="a parameter; dead codes move to anchors among the latents",
        moved_by="its codebook loss, and the anchors",
        papers="CVQ-VAE 2307.15139",
        example={
            "kind": "cvq", **LEARNED_EXAMPLE, "anchor": "closest", "decay": 0.99, "contrastive": None,
        },
    )  # fmt: skip
    usage: Tensor

    def __init__(self, config: CvqParams) -> None:
        super().__init__(config, metric=config.distance)
        self.anchor, self.decay, self.contrastive = config.anchor, config.decay, config.contrastive
        self.register_buffer("usage", torch.zeros(config.num_codes))

    def live_codes(self) -> tuple[Float[Tensor, "K d"]]:
        """The parameter; in training a copy with its gradient, since it moves before the pass ends."""
        (codes,) = super().live_codes()
        return (codes.clone() if self.training else codes,)

    def losses(
        self,
        rows: Float[Tensor, "n d"],
        codes: Float[Tensor, "K d"],
        indices: Int64[Tensor, " n"],
        progress: float,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """See `NearestCodeQuantizer.losses`: with the contrastive term."""
        loss, terms = super().losses(rows, codes, indices, progress)
        if self.contrastive is not None:
            latents = gather(rows.detach()) if self.training else rows.detach()
            contrastive = contrastive_loss(codes, latents, self.contrastive, self.metric)
            loss = loss + self.contrastive.weight * contrastive
            terms["contrastive"] = contrastive.detach()
        return loss, terms

    def move_codes(self, rows: Float[Tensor, "n d"], indices: Int64[Tensor, " n"]) -> None:
        """See `NearestCodeQuantizer.move_codes`: towards the anchors."""
        latents, indices, num_codes = gather(rows), gather(indices), self.num_codes[0]
        share = count_codes(indices, num_codes).float() / len(indices)
        self.usage.lerp_(share, 1 - self.decay)
        alpha = torch.exp(-10 * self.usage * num_codes / (1 - self.decay) - 1e-3)[:, None]
        anchors = latents[broadcast(self._anchors(latents))]
        self.codes.copy_(self.codes.lerp(anchors, alpha))

    def _anchors(self, latents: Tensor) -> Int64[Tensor, " K"]:
        codes = self.codes.detach()
        if self.anchor == "random":
            return draw_order(len(latents), len(codes), latents.device)
        if self.anchor == "closest":
            return nearest(codes, latents, self.metric)

        def sample(part: Tensor) -> tuple[Tensor]:
            scores = similarities(part, latents, self.metric)
            return ((scores + gumbel_noise(scores)).argmax(1),)

        return torch.cat([found for (found,) in in_row_tiles(sample, codes, len(latents))])


def similarities(
    codes: Float[Tensor, "k d"], latents: Float[Tensor, "n d"], metric: Metric
) -> Float[Tensor, "k n"]:
    """-|z - e|^2 of all pairs, or their cosines."""
    if metric == "cosine":
        return unit(codes) @ unit(latents).T
    squares = codes.square().sum(1, keepdim=True) + latents.square().sum(1)
    return torch.addmm(squares, codes, latents.T, beta=-1, alpha=2)


def contrastive_loss(
    codes: Float[Tensor, "K d"], latents: Float[Tensor, "n d"], config: ContrastiveParams, metric: Metric
) -> Float[Tensor, ""]:
    """The mean over codes of the contrastive term (see the module's text), with gradient to the codes."""
    num_near, num_far = max(1, len(latents) // len(codes)), len(latents) // 2

    def step(part: Tensor) -> tuple[Tensor]:
        scores = similarities(part, latents, metric)
        near = scores.topk(num_near, dim=1, sorted=False).values.mean(1, keepdim=True)
        far = scores.topk(num_far, dim=1, largest=False, sorted=False).values
        logits = torch.cat([near, far], dim=1) / config.temperature
        return (-logits.log_softmax(1)[:, 0],)

    return torch.cat([values for (values,) in in_row_tiles(step, codes, len(latents))]).mean()
