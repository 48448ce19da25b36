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


TILE = {"cpu": 1 << 22}
"""Values held at once by each intermediate of a step, by device: 16 MB on a CPU."""
OTHER_TILE = 1 << 26
"""The same on any other device: 256 MB."""


def in_row_tiles(step: Step, rows: Float[Tensor, "n d"], width: int) -> list[tuple[Tensor, ...]]:
    """The step's outputs on consecutive parts of the rows; one part where all fit, and under `torch.export`.

    Args:
        step: must depend on its rows, on captured tensors and on torch's global generators alone.
        rows: to share out.
        width: values that the step makes per row: K.
    """
    limit = TILE.get(rows.device.type, OTHER_TILE)
    if torch.compiler.is_exporting() or len(rows) * width <= limit:
        return [step(rows)]
    parts = torch.split(rows, max(1, limit // width))
    if not torch.is_grad_enabled():
        return [step(part) for part in parts]
    return [checkpoint(step, part, use_reentrant=False) for part in parts]
