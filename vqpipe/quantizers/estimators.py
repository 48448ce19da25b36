"""How the gradient passes a step that has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Estimator = Literal["rotation", "straight_through"]
"""The names of `ESTIMATORS`."""
SHORTEST = 1e-6
"""Vectors that are no longer than this have no direction that could be rotated."""


def straight_through(z: Float[Tensor, "*s"], z_q: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The value of `z_q`, exactly, with the gradient of the identity to `z` and none to `z_q`.

    Source: Bengio et al., arXiv 1308.3432; VQ-VAE, arXiv 1711.00937, section 3.2. The usual `z + sg(z_q - z)`
    is off by a rounding, so that decoded indices would differ from `z_q`; here the added part is exactly
    zero.
    """
    return z_q.detach() + (z - z.detach())


def rotation(z: Float[Tensor, "*b d"], z_q: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """The value of `z_q`, exactly, with the gradient of a rotation and rescaling to `z` and none to `z_q`.

    Source: the rotation trick, Fifty et al., arXiv 2410.06424, section 4. With a = z / |z|, b = z_q / |z_q| and
    r = (a + b) / |a + b|,

        z_q = |z_q| / |z| (I - 2 r r^T + 2 b a^T) z

    and all but the last z counts as a constant, so that the angle between the gradient and z_q is the angle between
    what reaches the encoder and z. No matrix is made: time and memory are those of a few vectors.

    Where the rotation is not unique, a = -b, r is the axis that z is least aligned with, made perpendicular to z. A
    vector of length 1e-6 or less, z or z_q, has no direction: there the gradient goes straight through.
    """
    source, target = z.detach(), z_q.detach()
    length, reach = (torch.linalg.vector_norm(v, dim=-1, keepdim=True) for v in (source, target))
    a, b = source / length.clamp_min(SHORTEST), target / reach.clamp_min(SHORTEST)
    between = a + b
    opposite = torch.linalg.vector_norm(between, dim=-1, keepdim=True) <= SHORTEST
    axis = torch.zeros_like(a).scatter_(-1, a.abs().argmin(-1, keepdim=True), 1)
    r = _unit(torch.where(opposite, axis - a * (axis * a).sum(-1, keepdim=True), between))
    turned = z - 2 * r * (r * z).sum(-1, keepdim=True) + 2 * b * (a * z).sum(-1, keepdim=True)
    moved = turned * (reach / length.clamp_min(SHORTEST))
    moved = torch.where((length > SHORTEST) & (reach > SHORTEST), moved, z)
    return straight_through(moved, z_q)


def _unit(rows: Tensor) -> Tensor:
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


ESTIMATORS: dict[Estimator, Callable[[Tensor, Tensor], Tensor]] = {
    "rotation": rotation,
    "straight_through": straight_through,
}
"""By their name in the params: (z, z_q), vectors last, to z_q with the estimator's gradient."""
