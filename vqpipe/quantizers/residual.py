"""Residual quantisation: each stage quantises what the stages before it left over.

Papers: RQ-VAE, arXiv 2203.01941, section 3.1; SoundStream, arXiv 2107.03312, section III-C.

    r_0 = z,  q_s = stage_s(r_s),  r_(s+1) = r_s - q_s,  z_q = sum_s q_s

over any other method, with a codebook per stage or one for all. The groups are those of stage 0, then of stage 1, and
so on. The loss is the sum (RQ-VAE) or the mean of the stages' own losses; RQ-VAE's commitment
|z - sg(q_0 + .. + q_s)|^2 is stage s's commitment on its residual.

The gradient, by the base (`Quantizer.own_gradient`):

- Where an estimator passes the gradient of z_q to z (`vq`, `lfq`, ..), it does so once, for the sum, from z_q to z.
  Adding up the stages' own would multiply it by their number. Residuals are taken off without gradient, so that
  every stage's loss moves the encoder as the paper says.
- Where z_q has a gradient of its own (`gumbel`, `sq_vae`, `ibq`, `fsq`), the whole chain is differentiated,
  residuals included, and the codes of every stage get theirs.

Codes that start from data start from their stage's residuals in the first batch, and each stage from latents of its
own: a latent that became a code leaves no residual, so that a next stage which started from the same latents would
have many codes at 0. A shared codebook starts from z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int, Int64
from pydantic import Field
from torch import Tensor

from vqpipe.quantizers.contract import (
    About,
    Codebook,
    Quantized,
    Quantizer,
    QuantizerParams,
    check_indices,
    check_latent,
    rows_of,
)
from vqpipe.quantizers.estimators import ESTIMATORS
from vqpipe.quantizers.nearest import LEARNED_EXAMPLE
from vqpipe.quantizers.over import OverParams, OverQuantizer, base_params

if TYPE_CHECKING:
    AnyBase = QuantizerParams
else:
    AnyBase = base_params("multi")


class ResidualParams(OverParams):
    """Each stage quantises what the stages before it left over (RQ-VAE, SoundStream).

    `base` is any method but this one.
    """

    kind: Literal["residual"]
    base: AnyBase
    """The quantizer of every stage."""
    num_stages: int = Field(ge=1, le=32)
    """Stages, each with the base's groups: an image has num_stages times the base's indices."""
    shared: bool
    """One codebook for all stages (RQ-VAE's form), or each its own (SoundStream's)."""
    stage_scale: float | None = Field(default=None, gt=0, le=1)
    """Stage s divides what it receives by stage_scale^s and multiplies its codes by it, from s = 0; None: 1. For
    bases whose codes are fixed: 1 / (L - 1) for `fsq` of L levels, 1/2 for `lfq`."""

    @property
    def copies(self) -> int:
        """num_stages; one and the same where the codebook is shared."""
        return self.num_stages

    @property
    def num_made(self) -> int:
        """See `OverParams.num_made`."""
        return 1 if self.shared else self.num_stages

    @property
    def dim(self) -> int:
        """Dimension of the z that the quantizer receives: the base's."""
        return self.base.dim


class ResidualQuantizer(OverQuantizer):
    """num_stages times the base's groups.

    Args:
        config: the params.
        make: a base quantizer for the given stage; called once where the codebook is shared.
    """

    kind = "residual"
    Params = ResidualParams
    copies_name = "stages"
    about = About(
        title="RQ",
        codes="stages of any other method",
        moved_by="as the base",
        papers="RQ-VAE 2203.01941, SoundStream 2107.03312",
        example={
            "kind": "residual", "base": {"kind": "vq", **LEARNED_EXAMPLE}, "num_stages": 2, "shared": False,
            "reduce": "sum",
        },
    )  # fmt: skip
    initialised: Tensor

    def __init__(self, config: ResidualParams, make: Callable[[int], Quantizer]) -> None:
        super().__init__(config, make)
        base = self._stage(0)
        self.dim = base.dim
        self.num_codes = base.num_codes * config.num_stages
        self.own_gradient, self.estimator = base.own_gradient, base.estimator
        self.register_buffer("initialised", torch.tensor(False))
        ratio = 1.0 if config.stage_scale is None else config.stage_scale
        self.scales = [ratio**s for s in range(config.num_stages)]

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "b d h w"]) -> None:
        """See `Quantizer.initialise`: each stage from the residuals of every S-th latent, from the s-th on, after
        the stages before it in eval mode. With fewer latents than stages, from all of them."""
        if not self.waits_for_data():
            return
        rows = rows_of(z.detach().float())
        stages = self._copies()
        for number, stage in enumerate(stages):
            own = rows[number :: len(stages)] if len(rows) >= len(stages) else rows
            residual = own.T[None, :, :, None]
            for before, scale in zip(stages[:number], self.scales, strict=False):
                training = before.training
                residual = residual - before.eval()(residual / scale).z_q * scale
                before.train(training)
            stage.initialise(residual / self.scales[number])
        self._started.set(self.initialised, True)

    def forward(self, z: Float[Tensor, "b d h w"], progress: float = 1.0) -> Quantized:
        """See `Quantizer.forward`; the stages' terms have the stage's number after their names."""
        check_latent(z, self.dim, not self.training)
        if self.training:
            self.initialise(z)
        z = z.float()
        residual, total = z, torch.zeros_like(z)
        outs: list[Quantized] = []
        for number, scale in enumerate(self.scales):
            out: Quantized = self._stage(number)(residual / scale, progress)
            part = out.z_q * scale
            residual = residual - (part if self.own_gradient else part.detach())
            total = total + part
            outs.append(out)
        vectors = tuple(
            v if scale == 1 else v * scale
            for out, scale in zip(outs, self.scales, strict=True)
            for v in out.vectors
        )
        return self._joined(total if self.own_gradient else self._estimated(z, total), outs, vectors)

    @torch.no_grad()
    def indices(self, z: Float[Tensor, "b d h w"]) -> Int64[Tensor, "b g h w"]:
        """See `Quantizer.indices`."""
        check_latent(z, self.dim, True)
        residual, found = z.float(), []
        for number, scale in enumerate(self.scales):
            stage = self._stage(number)
            found.append(stage.indices(residual / scale))
            residual = residual - stage.decode(found[-1]) * scale
        return torch.cat(found, dim=1)

    @torch.no_grad()
    def continuous(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"] | None:
        """See `Quantizer.continuous`: the codes of all stages but the last and, of what they leave over, that of the
        last one, where the base has one."""
        residual, total = z.float(), torch.zeros_like(z, dtype=torch.float32)
        for number, scale in enumerate(self.scales[:-1]):
            stage = self._stage(number)
            part = stage.decode(stage.indices(residual / scale)) * scale
            residual, total = residual - part, total + part
        last = self._stage(len(self.scales) - 1).continuous(residual / self.scales[-1])
        return None if last is None else total + last * self.scales[-1]

    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b d h w"]:
        """See `Quantizer.decode`; the sum of the stages' latents."""
        check_indices(indices, self.num_codes)
        parts = [
            self._stage(number).decode(own) * scale
            for number, (own, scale) in enumerate(
                zip(indices.chunk(self.config.num_stages, dim=1), self.scales, strict=True)
            )
        ]
        return sum(parts, torch.zeros_like(parts[0]))  # in the order in which `forward` adds them

    @torch.no_grad()
    def codebooks(self) -> list[Codebook]:
        """The base's codebooks of each stage, named with the stage's number, as they enter the sum."""
        return [
            Codebook(f"{book.group}_{number}", book.vectors * scale, book.names, book.metric)
            for number, scale in enumerate(self.scales)
            for book in self._stage(number).codebooks()
        ]

    def _estimated(self, z: Tensor, total: Tensor) -> Tensor:
        b, _, h, w = z.shape
        parts = self._stage(0).parts
        sides = [side.view(b, parts, -1, h, w).movedim(2, -1) for side in (z, total)]
        return ESTIMATORS[self.estimator](*sides).movedim(-1, 2).flatten(1, 2)

    def _stage(self, number: int) -> Quantizer:
        return self._copies()[0 if self.config.shared else number]
