"""Params of the quantizers whose codes are the points of a fixed lattice."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vqpipe.params.base import Params
from vqpipe.params.quantizers.soft import EntropyParams

MAX_CODES = 2**24
"""The largest lattice that is listed code by code (`codebooks`) and counted in metrics."""


class FsqParams(Params):
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

    @model_validator(mode="after")
    def _fits(self) -> FsqParams:
        if self.dim != len(self.levels):
            raise ValueError(
                f"dim is {self.dim}, but there are {len(self.levels)} levels; they must be as many"
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


class LfqParams(EntropyParams):
    """Every dimension reduced to its sign: K = 2^dim (LFQ, MAGVIT-v2)."""

    kind: Literal["lfq"]
    dim: int = Field(ge=1, le=24)
    """Dimension of the z that the quantizer receives; 18 in the paper."""
    commitment_weight: float = Field(ge=0)
    """Weight of |z - sg(z_q)|^2; common: 0.25."""
