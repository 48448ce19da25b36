"""Quantizers whose codes are the points of a fixed lattice: nothing is learned or searched.

A code is one digit per dimension, and its index is their number in mixed radix, the first dimension least
significant: index = sum_i digit_i prod_{j < i} levels_j.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from vqpipe.quantizers.contract import (
    Codebook,
    Quantized,
    Quantizer,
    check_indices,
    check_latent,
    latent_of,
    rows_of,
)


class LatticeQuantizer(Quantizer):
    """One group, no parameters and no state: its params say everything. Nothing is annealed.

    Always in float32, also under autocast.

    Args:
        config: the params.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        levels = self.levels_of(config)
        self.config = config
        self.dim = len(levels)
        self.num_codes = (math.prod(levels),)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    @staticmethod
    @abstractmethod
    def levels_of(config: Any) -> Sequence[int]:
        """Values per dimension."""

    @abstractmethod
    def values(self, digits: Int64[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The code vectors of digits."""

    @abstractmethod
    def prepare(self, rows: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Rows, float32, as losses and gradient see them, in the unit of `values`."""

    @abstractmethod
    def round(self, rows: Float[Tensor, "*b d"]) -> Int64[Tensor, "*b d"]:
        """The digits of rows, float32."""

    @abstractmethod
    def quantise(
        self, rows: Float[Tensor, "n d"]
    ) -> tuple[Tensor, Int64[Tensor, "n d"], Tensor, dict[str, Tensor]]:
        """Of rows, float32: z_q with its gradient (n, d), the digits, the loss and its terms."""

    def forward(self, z: Float[Tensor, "b d h w"], progress: float = 1.0) -> Quantized:
        """See `Quantizer.forward`; `vectors` is empty, since no code has a gradient."""
        check_latent(z, self.dim, not self.training)
        with torch.autocast(z.device.type, enabled=False):
            z_q, digits, loss, terms = self.quantise(rows_of(z.float()))
        indices = (digits * self.basis).sum(-1).view(z.shape[0], 1, *z.shape[2:])
        return Quantized(latent_of(z_q, z), indices, loss, terms, ())

    @torch.no_grad()
    def indices(self, z: Float[Tensor, "b d h w"]) -> Int64[Tensor, "b 1 h w"]:
        """See `Quantizer.indices`."""
        check_latent(z, self.dim, True)
        with torch.autocast(z.device.type, enabled=False):
            digits = self.round(rows_of(z.float()))
        return (digits * self.basis).sum(-1).view(z.shape[0], 1, *z.shape[2:])

    @torch.no_grad()
    def continuous(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"] | None:
        """See `Quantizer.continuous`: latents as `prepare` makes them."""
        return latent_of(self.prepare(rows_of(z.float())), z)

    def decode(self, indices: Int[Tensor, "b 1 h w"]) -> Float[Tensor, "b d h w"]:
        """See `Quantizer.decode`."""
        check_indices(indices, self.num_codes)
        return self.values(self.digits(indices[:, 0])).permute(0, 3, 1, 2)

    def digits(self, indices: Int[Tensor, "*b"]) -> Int64[Tensor, "*b d"]:
        """One digit per dimension, each below its number of levels."""
        return indices.long()[..., None] // self.basis % self.levels

    @torch.no_grad()
    def codebooks(self) -> list[Codebook]:
        """All K points; at 2^18 codes of dimension 18 that is 19 MB."""
        every = torch.arange(self.num_codes[0], device=self.basis.device)
        return [Codebook("code", self.values(self.digits(every)))]
