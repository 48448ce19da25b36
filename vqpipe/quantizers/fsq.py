"""Finite scalar quantisation: every dimension is bounded and rounded to a few levels.

Papers: FSQ, arXiv 2309.15505, section 3.1 and the listing in its appendix; iFSQ, arXiv 2601.17124.

For L levels, with h = (L - 1) (1 + margin) / 2 and o = 1/2 where L is even, else 0:

    bound(z) = h tanh(slope z + s) - o,  digit = round(bound(z)) + floor(L / 2),  value = round(bound(z)) / floor(L / 2)

so that values are in [-1, 1], symmetric where L is odd, from -1 to 1 - 2 / L where it is even. The shift s brings
z = 0 to a value of 0: tan(o / h) in the paper's listing, atanh(o / h) exactly; `shift` says which. The gradient of
z_q is that of bound(z) / floor(L / 2): straight through the rounding, not through tanh. There is no loss and
nothing to train.

iFSQ replaces tanh(z) by 2 sigmoid(1.6 z) - 1, which makes the bounded values of a standard normal z nearly uniform. The
two are one function: 2 sigmoid(2 a z) - 1 = tanh(a z). So iFSQ is `slope: 0.8`, with `margin: 0` in its code, which
takes odd numbers of levels alone; even ones are shifted here as FSQ's. With that margin the two outermost levels are
half as wide as the others; even use of L levels needs a margin of 1 / (L - 1). Entropies of the levels over log L, for
a standard normal z and L = 5, 17, with margin 0: FSQ .993, .992, iFSQ .957, .983; iFSQ with 1 / (L - 1) 1.000, .998.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.quantizers.contract import About, QuantizerParams
from vqpipe.quantizers.estimators import straight_through
from vqpipe.quantizers.lattice import LatticeQuantizer

MAX_CODES = 2**24
"""The largest lattice that is listed code by code (`codebooks`) and counted in metrics."""


class FsqParams(QuantizerParams):
    """Every dimension rounded to its own number of levels (FSQ)."""

    kind: Literal["fsq"]
    dim: int = Field(ge=1)
    """Dimension of the z that the quantizer receives: the number of levels."""
    levels: tuple[Annotated[int, Field(ge=2)], ...]
    """Levels per dimension; K is their product. The paper's: [8, 6, 5] (2^8), [8, 5, 5, 5] (2^10), [7, 5, 5, 5, 5]
    (2^12), [8, 8, 8, 6, 5] (2^14), [8, 8, 8, 5, 5, 5] (2^16)."""
    margin: float = Field(gt=-0.5, le=0.5)
    """Latents are bounded to (levels - 1) * (1 + margin) / 2 around the middle before they are rounded: -0.001 in
    the paper's listing, 0.001 in widely used ports."""
    shift: Literal["tan", "atanh"]
    """How z is shifted where the number of levels is even: `tan` as in the paper's listing, `atanh` so that z = 0
    is bounded to 0 exactly. They differ by 1 % of a step or so from 4 levels on."""
    slope: float = Field(default=1.0, gt=0)
    """What z is multiplied by inside tanh: 1 in FSQ, 0.8 in iFSQ, whose 2 sigmoid(1.6 z) - 1 is tanh(0.8 z)."""

    @model_validator(mode="after")
    def _fits(self) -> FsqParams:
        if self.dim != len(self.levels):
            raise ValueError(
                f"dim is {self.dim}, but there are {len(self.levels)} levels; the two must be equal"
            )
        if math.prod(self.levels) > MAX_CODES:
            raise ValueError(
                f"the levels make {math.prod(self.levels)} codes; at most {MAX_CODES} are supported"
            )
        if (max(self.levels) - 1) * -self.margin >= 1:
            raise ValueError(
                f"with margin {self.margin} the outermost of {max(self.levels)} levels are never reached"
            )
        even = [level for level in self.levels if level % 2 == 0]
        if self.shift == "atanh" and even and (min(even) - 1) * (1 + self.margin) <= 1:
            raise ValueError(
                f"shift atanh needs (levels - 1) * (1 + margin) > 1, but {min(even)} levels and margin "
                f"{self.margin} give {(min(even) - 1) * (1 + self.margin):g}"
            )
        return self

    @property
    def trains_codes(self) -> bool:
        """False: there are no code vectors."""
        return False


class FiniteScalarQuantizer(LatticeQuantizer):
    """One group of prod(levels) codes."""

    kind = "fsq"
    Params = FsqParams
    about = About(
        title="FSQ",
        codes="a fixed grid: a few levels per dimension",
        moved_by="nothing",
        papers="FSQ 2309.15505, iFSQ 2601.17124",
        example={
            "kind": "fsq", "dim": 8, "levels": [8, 5, 3, 3, 3, 2, 2, 4], "margin": 0.001, "shift": "atanh",
        },
    )  # fmt: skip
    own_gradient = True
    config: FsqParams
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
        return self.reach * (z * self.config.slope + self.shift).tanh() - self.offset

    def values(self, digits: Int64[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """See `LatticeQuantizer.values`."""
        middle = self.levels // 2
        return (digits - middle) / middle

    def prepare(self, rows: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """See `LatticeQuantizer.prepare`: bounded, in the unit of `values`."""
        return self.bound(rows) / (self.levels // 2)

    def quantise(
        self, rows: Float[Tensor, "n d"]
    ) -> tuple[Tensor, Int64[Tensor, "n d"], Tensor, dict[str, Tensor]]:
        """See `LatticeQuantizer.quantise`. A value that is not a number takes the lowest level; in training z_q is NaN
        there, and where a value is infinite, which tanh would hide."""
        bounded = self.bound(rows)
        digits = self._digits_of(bounded.detach())
        if self.training:
            bounded = bounded + (rows.detach() - rows.detach())
        z_q = straight_through(bounded / (self.levels // 2), self.values(digits))
        return z_q, digits, rows.new_zeros(()), {}

    def round(self, rows: Float[Tensor, "*b d"]) -> Int64[Tensor, "*b d"]:
        """See `LatticeQuantizer.round`."""
        return self._digits_of(self.bound(rows))

    def _digits_of(self, bounded: Tensor) -> Tensor:
        middle = self.levels // 2
        digits = bounded.nan_to_num(-torch.inf).round().clamp(-middle, self.levels - 1 - middle)
        return digits.long() + middle
