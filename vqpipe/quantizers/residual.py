"""Residual quantisation: each stage quantises what the stages before it left over.

Papers: RQ-VAE, arXiv 2203.01941, section 3.1; SoundStream, arXiv 2107.03312, section III-C.

    r_0 = z,  q_s = stage_s(r_s),  r_(s+1) = r_s - q_s,  z_q = sum_s q_s

over any other method, with a codebook per stage or one for all. The groups are those of stage 0, then of stage 1, and
so on. The loss is the sum or the mean of the stages' own losses; RQ-VAE's commitment |z - sg(q_0 + .. + q_s)|^2 is
stage s's commitment on its residual.

The gradient, by the base (`QuantizerModule.own_gradient`):

- Where an estimator hands the gradient of z_q to z (`vq`, `lfq`, ..), it does so once, for the sum, from z_q to z.
  Adding up the stages' own would multiply it by their number. Residuals are taken off without gradient, so that
  every stage's loss moves the encoder as the paper says.
- Where z_q has a gradient of its own (`gumbel`, `sq_vae`, `ibq`, `fsq`), the whole chain is differentiated as it
  stands, residuals included, and the codes of every stage get theirs.

Codes that start from data start from their stage's residuals in the first batch, and each stage from latents of its
own: a latent that became a code leaves nothing over, so that a next stage which started from the same latents would
have many codes at 0. A shared codebook starts from z.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqpipe.codebooks.load import Prior
from vqpipe.params.quantizers.residual import ResidualParams
from vqpipe.quantizers.contract import (
    Codebook,
    Names,
    Quantized,
    QuantizerModule,
    check_indices,
    check_latent,
)
from vqpipe.quantizers.estimators import ESTIMATORS


class ResidualQuantizer(QuantizerModule):
    """num_stages times the base's groups.

    Args:
        config: the params.
        make: a base quantizer for the given stage; called once where the codebook is shared.
    """

    kind = "residual"
    initialised: Tensor

    def __init__(self, config: ResidualParams, make: Callable[[int], QuantizerModule]) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(make(s) for s in range(1 if config.shared else config.num_stages))
        base = self._stage(0)
        self.dim = base.dim
        self.num_codes = base.num_codes * config.num_stages
        self.own_gradient, self.estimator = base.own_gradient, base.estimator
        self.register_buffer("initialised", torch.tensor(False))
        ratio = 1.0 if config.stage_scale is None else config.stage_scale
        self.scales = [ratio**s for s in range(config.num_stages)]

    @classmethod
    def from_prior(cls, config: ResidualParams, prior: Prior) -> Self:
        """See `QuantizerModule.from_prior`; every stage takes the base's prior."""
        method = _method(config)
        return cls(config, lambda stage: method.from_prior(config.base, prior))

    @classmethod
    def skeleton(cls, config: ResidualParams, tensors: Mapping[str, Tensor], names: Names | None) -> Self:
        """See `QuantizerModule.skeleton`."""
        method = _method(config)

        def make(stage: int) -> QuantizerModule:
            prefix = f"stages.{stage}."
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            groups = len(names) // config.num_stages if names is not None else 0
            return method.skeleton(config.base, own, names and names[stage * groups : (stage + 1) * groups])

        return cls(config, make)

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "b d h w"]) -> None:
        """See `QuantizerModule.initialise`: each stage from the residuals of every S-th latent, from the s-th on, after
        the stages before it in eval mode. With fewer latents than stages, from all of them."""
        if bool(self.initialised):
            return
        rows = z.detach().float().movedim(1, -1).flatten(0, -2)
        for number, stage in enumerate(self.stages):
            assert isinstance(stage, QuantizerModule)
            own = rows[number :: len(self.stages)] if len(rows) >= len(self.stages) else rows
            residual = own.T[None, :, :, None]
            for before, scale in zip(self.stages[:number], self.scales, strict=False):
                training = before.training
                residual = residual - before.eval()(residual / scale).z_q * scale
                before.train(training)
            stage.initialise(residual / self.scales[number])
        self.initialised.fill_(True)

    def forward(self, z: Float[Tensor, "b d h w"], progress: float = 1.0) -> Quantized:
        """See `Quantizer.forward`; the stages' terms have the stage's number behind their names."""
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
        losses = torch.stack([out.loss for out in outs])
        return Quantized(
            total if self.own_gradient else self._estimated(z, total),
            torch.cat([out.indices for out in outs], dim=1),
            losses.sum() if self.config.reduce == "sum" else losses.mean(),
            {f"{name}_{s}": value for s, out in enumerate(outs) for name, value in out.terms.items()},
            tuple(
                v if scale == 1 else v * scale
                for out, scale in zip(outs, self.scales, strict=True)
                for v in out.vectors
            ),
        )

    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b d h w"]:
        """The sum of the stages' latents, float32.

        Raises:
            MismatchError: indices of another shape, or out of range.
        """
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

    def _stage(self, number: int) -> QuantizerModule:
        stage = self.stages[0 if self.config.shared else number]
        assert isinstance(stage, QuantizerModule)
        return stage


def _method(config: ResidualParams) -> type[QuantizerModule]:
    from vqpipe.quantizers import QUANTIZERS  # which holds this method too

    return QUANTIZERS[config.base.kind]
