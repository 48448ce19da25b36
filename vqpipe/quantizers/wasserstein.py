"""Codes drawn towards the distribution of the latents, by the Wasserstein distance of two Gaussians.

Paper: Enhancing Vector Quantization with Distributional Matching, arXiv 2506.15078, and its public code.

With mean m and covariance S of the pass's latents, and n and T of all K codes, used or not:

    W = sqrt(|m - n|^2 + tr(S + T - 2 (S^(1/2) T S^(1/2))^(1/2)))

is the quadratic Wasserstein distance between N(m, S) and N(n, T), and `weight` W is added to the losses of `vq`. Its
gradient goes to every code; with `moves: both` to the latents too. The public code sends it to the codes alone. Means
and covariances are those of the sets themselves, divided by the number of vectors; the latents are those of all ranks.

The public code differs in four ways. It takes the latents' moments over a queue of earlier latents, 65,536 of them in
its VQ-VAE and VQGAN and 174,080 in its VAR; here they are the pass's, so that a checkpoint has no queue to keep. It
divides both sets by a largest standard deviation over the dimensions, without gradient: that of the latents in its
VQ-VAE, which is not offered here, or of the codes in its VQGAN and VAR (`scale: codes`; `scale: none` is the formula).
It divides covariances by n - 1 and adds constants inside the roots, where this one leaves out what is below the
rounding of float64. And its codes start from N(0, 0.01^2). Its EMA baseline has a decay of 0.8.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from pydantic import Field
from torch import Tensor

from vqpipe.quantizers.contract import About
from vqpipe.quantizers.nearest import LEARNED_EXAMPLE, LearnedCodesParams, LearnedCodesQuantizer
from vqpipe.quantizers.soft import mean_over_ranks

_ROUNDING = 1e-13
"""Share of the largest value below which an eigenvalue, or the squared distance, is rounding and has no gradient."""

Moments = tuple[Float64[Tensor, " d"], Float64[Tensor, "d d"]]
"""Mean and covariance."""


class WassersteinParams(LearnedCodesParams):
    """A learned codebook whose mean and covariance follow those of the latents (Wasserstein VQ)."""

    kind: Literal["wasserstein"]
    weight: float = Field(gt=0)
    """Of the distance; 0.5 in the public code's runs, with `beta: 0.1` on the commitment and 1 on the codes."""
    scale: Literal["none", "codes"]
    """The unit of the distance: `none`, that of the latents (the paper's formula); `codes`, the codes' largest standard
    deviation over the dimensions (the public code's VQGAN)."""
    moves: Literal["codes", "both"]
    """Where the gradient of the distance goes: to the `codes`, or to `both` codes and latents."""


class WassersteinQuantizer(LearnedCodesQuantizer):
    """One group; the codes are a parameter of shape (K, d). A pass factorises two d x d matrices, on a device too."""

    kind = "wasserstein"
    Params = WassersteinParams
    about = About(
        title="Wasserstein VQ",
        codes="a parameter, with the mean and covariance of the latents as their aim",
        moved_by="its codebook loss, and the distance of the two distributions",
        papers="2506.15078",
        example={
            "kind": "wasserstein", **LEARNED_EXAMPLE, "weight": 0.5, "scale": "none", "moves": "codes",
        },
    )  # fmt: skip

    def __init__(self, config: WassersteinParams) -> None:
        super().__init__(config)
        self.config = config

    def losses(
        self,
        rows: Float[Tensor, "n d"],
        codes: Float[Tensor, "K d"],
        indices: Int64[Tensor, " n"],
        progress: float,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """See `NearestCodeQuantizer.losses`: with the distance. A graph for export has no place for losses and leaves
        it out."""
        loss, terms = super().losses(rows, codes, indices, progress)
        if torch.compiler.is_exporting():
            return loss, terms
        latents = moments(rows if self.config.moves == "both" else rows.detach(), self.training)
        distance = gaussian_distance(latents, moments(codes, False))
        if self.config.scale == "codes":
            spread = codes.detach().double().std(0, correction=0).max()
            distance = distance / spread.clamp_min(torch.finfo(torch.float32).tiny)
        distance = distance.float()
        return loss + self.config.weight * distance, {**terms, "wasserstein": distance.detach()}


def moments(vectors: Float[Tensor, "n d"], over_ranks: bool) -> Moments:
    """Mean and covariance, divided by n, in float64; `over_ranks`, those of all ranks' vectors together."""
    wide = vectors.double()
    mean = mean_over_ranks(wide.mean(0), over_ranks)
    centred = (
        wide - mean.detach()
    )  # the covariance does not change with the mean that is taken off, to first order
    return mean, mean_over_ranks(centred.T @ centred / len(wide), over_ranks)


def gaussian_distance(first: Moments, second: Moments) -> Float64[Tensor, ""]:
    """The quadratic Wasserstein distance of two Gaussians, with the gradient to both.

    Where a matrix is not finite, the distance is not, and its gradient is 0 or not finite. At distance 0, up to
    rounding, the gradient is 0.
    """
    (m, s), (n, t) = first, second
    means, traces = (m - n).square().sum(), s.trace() + t.trace()
    # The trace of the root is the same with the roles changed; each form has the gradient to one side alone.
    to_second, to_first = _trace_of_root(s, t), _trace_of_root(t, s)
    shared = to_second + (to_first - to_first.detach())
    squared = means + traces - 2 * shared
    floor = (_ROUNDING * (means + traces)).detach()
    return torch.where(squared > floor, squared, 1.0).sqrt() * (squared > floor) + 0 * traces.detach()


def _trace_of_root(root_of: Float64[Tensor, "d d"], inside: Float64[Tensor, "d d"]) -> Float64[Tensor, ""]:
    """tr((A^(1/2) B A^(1/2))^(1/2)) of A = `root_of` and B = `inside`, with the gradient to B alone.

    Eigenvalues alone have a gradient that equal ones do not upset.
    """
    values, vectors = torch.linalg.eigh(root_of.detach().nan_to_num(0, 0, 0))
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    values = torch.linalg.eigvalsh(root @ inside.nan_to_num(0, 0, 0) @ root)
    kept = values > _ROUNDING * values.detach().max()
    return (torch.where(kept, values, 1.0).sqrt() * kept).sum()
