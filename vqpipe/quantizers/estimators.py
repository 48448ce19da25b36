"""How the gradient passes a step that has none."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def straight_through(z: Float[Tensor, "*s"], z_q: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The value of `z_q`, exactly, with the gradient of the identity to `z` and none to `z_q`.

    Source: Bengio et al., arXiv 1308.3432; VQ-VAE, arXiv 1711.00937, section 3.2. The usual `z + sg(z_q - z)`
    is off by a rounding, so that decoded indices would differ from `z_q`; here the added part is exactly
    zero.
    """
    return z_q.detach() + (z - z.detach())
