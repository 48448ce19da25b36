"""Work on rows against all codes, a tile of rows at a time, so that memory is bounded by the tile.

A softmax over all codes needs n x K values, and autograd keeps several of them. Here a step is run on as many
rows as fit the tile and is run again in the backward pass (`torch.utils.checkpoint`), with the same random
numbers. What is kept between is the step's outputs alone; the price is a second forward pass of that step,
which is paid only where n x K is larger than the tile.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Step = Callable[[Tensor], tuple[Tensor, ...]]
"""Rows (r, d) to tensors: those per row first in their shape, or sums over the rows."""


def in_row_tiles(
    step: Step, rows: Float[Tensor, "n d"], width: int, tile: int | None = None
) -> list[tuple[Tensor, ...]]:
    """The step's outputs on consecutive parts of the rows; one part where all fit.

    Args:
        step: must depend on its rows, on captured tensors and on torch's global generators alone.
        rows: to share out.
        width: values that the step makes per row: K.
        tile: values held at once, per intermediate of the step; by default 2^22 on a CPU (16 MB) and 2^26
            elsewhere.
    """
    limit = tile or (1 << 22 if rows.device.type == "cpu" else 1 << 26)
    if len(rows) * width <= limit:
        return [step(rows)]
    parts = torch.split(rows, max(1, limit // width))
    if not torch.is_grad_enabled():
        return [step(part) for part in parts]
    return [checkpoint(step, part, use_reentrant=False) for part in parts]
