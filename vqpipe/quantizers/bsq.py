"""Binary spherical quantisation: latents on the unit sphere, each dimension reduced to its sign, K = 2^d.

Paper: BSQ, arXiv 2406.07548, section 4; its public code.

    u = z / |z|,  value_i = sign(u_i) / sqrt(d),  index = sum_i 2^i [u_i > 0]

so that latents and codes both have length 1, and |u - z_q| is bounded for any encoder. The gradient of z_q goes to u
unchanged, and on to z through the division, which keeps the part perpendicular to z. The loss is that of `lfq`
between u and z_q:

    entropy_weight * (sample_weight * E[H(p)] - batch_weight * H') + commitment_weight * mean (u - sg(z_q))^2

with p(k | u) = softmax_k(-inverse_temperature |u - e_k|^2) = prod_i sigmoid(4 inverse_temperature e_ki u_i). The
public code has the same inverse_temperature; the paper's tau is twice it, as far as known. H' is the entropy of the
batch's mean distribution as eq. 8 approximates it: the sum of the entropies of its d marginals, each of one bit, over
all ranks. It is an upper bound of H(E[p]), reached where the bits are independent. `joint_bits` takes groups of several
bits together; with all d it is H(E[p]), as in `lfq` and in vector-quantize-pytorch. Nothing of size n x K is made, for
any of them.

The public code differs by factors: it divides the penalty by inverse_temperature, its commitment is a sum over
dimensions, and it scales z_q after the straight-through step, so that u gets 1 / sqrt(d) of the gradient of z_q. Here
the reconstruction therefore weighs sqrt(d) times as much next to the penalty, 3.2 times at d = 10.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.quantizers.contract import About
from vqpipe.quantizers.lfq import LookupFreeQuantizer, SignParams
from vqpipe.quantizers.nearest import unit


class BsqParams(SignParams):
    """Latents on the unit sphere, every dimension reduced to its sign: K = 2^dim (BSQ). Its code has
    inverse_temperature 1, all weights of the penalty 1 and commitment_weight 0, and the whole weighed by 0.1, after a
    fall from 0.3 over 2,000 steps."""

    kind: Literal["bsq"]
    joint_bits: int = Field(default=1, ge=1)
    """Bits that the batch's entropy takes together, a divisor of dim: 1 in the paper's eq. 8 (its code also has 9
    of 18), dim for the exact entropy."""

    @model_validator(mode="after")
    def _fits(self) -> BsqParams:
        if self.dim % self.joint_bits:
            raise ValueError(f"joint_bits must divide dim; {self.joint_bits} does not divide {self.dim}")
        return self


class BinarySphericalQuantizer(LookupFreeQuantizer):
    """One group of 2^dim codes with entries of +-1 / sqrt(dim)."""

    kind = "bsq"
    Params = BsqParams
    about = About(
        title="BSQ",
        codes="a fixed grid on the unit sphere: the sign of each dimension, K = 2^d",
        moved_by="nothing",
        papers="BSQ 2406.07548",
        example={
            "kind": "bsq", "dim": 8, "commitment_weight": 0.0, "entropy_weight": 0.05, "sample_weight": 1.0,
            "batch_weight": 1.0, "inverse_temperature": 2.0,
        },
    )  # fmt: skip
    config: BsqParams

    def __init__(self, config: BsqParams) -> None:
        super().__init__(config)
        self.entry = config.dim**-0.5

    @property
    def joint_bits(self) -> int:
        """See `LookupFreeQuantizer.joint_bits`: that of the params."""
        return self.config.joint_bits

    def prepare(self, rows: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """See `LatticeQuantizer.prepare`: on the unit sphere."""
        return unit(rows)
