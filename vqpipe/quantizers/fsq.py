"""Finite scalar quantisation: every dimension is bounded and rounded to a few levels.

Paper: FSQ, arXiv 2309.15505, section 3.1 and the listing in its appendix.

For L levels, with h = (L - 1) (1 + margin) / 2 and o = 1/2 where L is even, else 0:

    bound(z) = h tanh(z + s) - o,  digit = round(bound(z)) + floor(L / 2),  value = round(bound(z)) / floor(L / 2)

so that values lie in [-1, 1], symmetric where L is odd, from -1 to 1 - 2 / L where it is even. The shift s brings
z = 0 to a value of 0: tan(o / h) in the paper's listing, atanh(o / h) exactly; `shift` says which. The gradient of
z_q is that of bound(z) / floor(L / 2): straight through the rounding, not through tanh. There is no loss and
nothing to train.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vqpipe.params.quantizers.scalar import FsqParams
from vqpipe.quantizers.estimators import straight_through
from vqpipe.quantizers.lattice import LatticeQuantizer


class FiniteScalarQuantizer(LatticeQuantizer):
    """One group of prod(levels) codes."""

    kind = "fsq"
    own_gradient = True
    reach: Tensor
    offset: Tensor
    shift: Tensor

    def __init__(self, config: FsqParams) -> None:
        super().__init__(config)
        reach = (self.levels.double() - 1) * (1 + config.margin) / 2
        offset = (1 - self.levels % 2) / 2
        shift = (offset / reach).tan() if config.shift == "tan" else (offset / reach).atanh()
        for name, value in (("reach", reach), ("offset", offset), ("shift", shift)):
            self.register_buffer(name, value.float(), persistent=False)

    @staticmethod
    def levels_of(config: FsqParams) -> tuple[int, ...]:
        """See `LatticeQuantizer.levels_of`."""
        return config.levels

    def bound(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """z in steps of one level, inside the levels."""
        return self.reach * (z + self.shift).tanh() - self.offset

    def values(self, digits: Int64[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """See `LatticeQuantizer.values`."""
        middle = self.levels // 2
        return (digits - middle) / middle

    def quantise(
        self, rows: Float[Tensor, "n d"]
    ) -> tuple[Tensor, Int64[Tensor, "n d"], Tensor, dict[str, Tensor]]:
        """See `LatticeQuantizer.quantise`. A value that is not a number takes the lowest level; in training z_q is NaN
        there, and where a value is infinite, which tanh would hide."""
        bounded = self.bound(rows)
        middle = self.levels // 2
        digits = bounded.detach().nan_to_num(-torch.inf).round().clamp(-middle, self.levels - 1 - middle)
        digits = digits.long() + middle
        if self.training:
            bounded = bounded + (rows.detach() - rows.detach())
        return straight_through(bounded / middle, self.values(digits)), digits, rows.new_zeros(()), {}
