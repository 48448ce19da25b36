"""Starting values from data: codes with the place and spread of the first latents."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vqpipe.runtime.host import send

_FLAT = 1e-6
"""Directions with less than this share of the largest variance count as flat and are not stretched."""


def draw_rows(rows: Float[Tensor, "n d"], num: int) -> Float[Tensor, "num d"]:
    """`num` of the rows at random, each as seldom as possible; repeats are moved by 1 % of the standard
    deviation.

    Draws from torch's global CPU generator, as layers do for their weights.
    """
    order = draw_order(len(rows), num)
    noise = torch.randn(num, rows.shape[1]) * 0.01
    noise[: len(rows)] = 0
    order, noise = send(order, rows.device), send(noise.to(rows.dtype), rows.device)
    return rows[order] + noise * rows.std(0, correction=0)


def draw_order(num_rows: int, num: int, device: torch.device | None = None) -> Int64[Tensor, " num"]:
    """Which of `num_rows` rows to take, at random and each as seldom as possible; drawn on the device, by default the
    CPU."""
    rounds = -(-num // num_rows)
    return torch.cat([torch.randperm(num_rows, device=device) for _ in range(rounds)])[:num]


def moment_map(
    outputs: Float[Tensor, "K d"], rows: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "d d"], Float[Tensor, " d"]]:
    """(M, s) such that `outputs @ M + s` has the mean and covariance of `rows`.

    M = C_outputs^(-1/2) C_rows^(1/2), in float64; directions in which the outputs are flat stay flat.
    """
    x, y = outputs.double(), rows.double()
    values, vectors = torch.linalg.eigh(_covariance(x))
    inverse = torch.where(values > _FLAT * values.max(), values.clamp_min(1e-300).rsqrt(), 0)
    whiten = (vectors * inverse) @ vectors.T
    values, vectors = torch.linalg.eigh(_covariance(y))
    colour = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    matrix = whiten @ colour
    return matrix.to(outputs.dtype), (y.mean(0) - x.mean(0) @ matrix).to(outputs.dtype)


@torch.no_grad()
def compose(layer: nn.Linear, matrix: Float[Tensor, "d d"], shift: Float[Tensor, " d"]) -> None:
    """Change a linear layer so that its output y becomes `y @ matrix + shift`."""
    layer.weight.copy_(matrix.T @ layer.weight)
    layer.bias.copy_(layer.bias @ matrix + shift)


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / len(x)
