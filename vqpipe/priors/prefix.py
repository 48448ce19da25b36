"""What a GPT is given as a prefix of its sequence: the image's class, its text, or its label map; class and map can
also be added to the inputs.

Without its condition an image has the null prefix: the null class, a learned vector at each token of the text, or a map
of which nothing is known.

Letters: b images, p vectors of the prefix, n positions, d width, l text tokens, H W pixels, s cells per side of a
token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vqpipe.errors import MismatchError
from vqpipe.models.causal import grid_places, turns
from vqpipe.priors.contract import NO_LABEL, Condition, ImageSpace


class Prefix(nn.Module, ABC):
    """The vectors before the codes."""

    length: int
    """p."""

    @abstractmethod
    def forward(self, condition: Condition, count: int) -> Float[Tensor, "b p d"]:
        """The prefix of `count` images; the null prefix where the condition lacks its part."""

    def added(self, condition: Condition, count: int) -> Float[Tensor, "b n d"] | None:
        """What is added to the inputs that predict each position; nothing by default."""
        return None

    @abstractmethod
    def turns(self, dim: int, base: float) -> Float[Tensor, "2 p e"]:
        """Rotary positions of its vectors, as `vqpipe.models.causal.turns`."""


class ClassPrefix(Prefix):
    """One vector per class, and one for images without one; `condition: none` has that alone.

    Args:
        everywhere: n, to add the vector to the input that predicts each position too; 0 for none.
    """

    length = 1

    def __init__(self, num_classes: int, width: int, everywhere: int = 0) -> None:
        super().__init__()
        self.null, self.everywhere = num_classes, everywhere
        self.table = nn.Embedding(num_classes + 1, width)

    def forward(self, condition: Condition, count: int) -> Float[Tensor, "b 1 d"]:
        device = self.table.weight.device
        labels = condition.labels
        if labels is None:
            labels = torch.full((count,), NO_LABEL, device=device)
        rows = labels.to(device)
        vectors: Tensor = self.table(torch.where(rows == NO_LABEL, self.null, rows))
        return vectors[:, None]

    def added(self, condition: Condition, count: int) -> Float[Tensor, "b n d"] | None:
        return self(condition, count).expand(-1, self.everywhere, -1) if self.everywhere else None

    def turns(self, dim: int, base: float) -> Float[Tensor, "2 1 e"]:
        """Zeros, as in LlamaGen's code: all scores of its query and of its key are 0."""
        return torch.zeros(2, 1, dim)


class TextPrefix(Prefix):
    """Each token's features through an MLP; after the text's end a learned vector, and for the null text everywhere.

    LlamaGen's is the same but for the padding, which is in front there and masked.
    """

    def __init__(self, length: int, text_dim: int, width: int) -> None:
        super().__init__()
        self.length, self.text_dim = length, text_dim
        self.project = nn.Sequential(nn.Linear(text_dim, width), nn.GELU(), nn.Linear(width, width))
        self.null = nn.Embedding(length, width)

    def forward(self, condition: Condition, count: int) -> Float[Tensor, "b l d"]:
        like = self.null.weight
        text, ids = condition.text, condition.text_ids
        if text is None or ids is None:  # parameters get a gradient all the same
            text = like.new_zeros(count, self.length, self.text_dim)
            ids = torch.full((count, self.length), -1)
        inside = ids.to(like.device) >= 0
        return torch.where(inside[..., None], self.project(text.to(like.device, like.dtype)), like)

    def turns(self, dim: int, base: float) -> Float[Tensor, "2 l e"]:
        """None: a text has no place in the grid. LlamaGen's has zeros, with which all of it weighs the same."""
        return torch.stack([torch.ones(self.length, dim), torch.zeros(self.length, dim)])


class MapCells(Prefix):
    """The cells of a label map, s times s for each token.

    Args:
        space: the grid, the side of maps and their classes.
        scale: s.

    Raises:
        MismatchError: maps that cannot be divided into as many cells.
    """

    def __init__(self, space: ImageSpace, scale: int) -> None:
        super().__init__()
        self.scale, self.cells, side = scale, (space.grid[0] * scale, space.grid[1] * scale), space.resolution
        if any(side < cells or side % cells for cells in self.cells):
            raise MismatchError(
                f"label maps of side {side} cannot be divided into {self.cells[0]} x {self.cells[1]} cells",
                found=f"map_scale {scale}, {space.grid[0]} x {space.grid[1]} tokens",
                expected="a map_scale whose cells divide the side",
            )
        self.unknown = len(space.map_classes)

    def classes(
        self, condition: Condition, count: int, device: torch.device
    ) -> Int64[Tensor, "b rows columns"]:
        """The class of each cell, `unknown` where it is not known."""
        if condition.label_map is None:
            return torch.full((count, *self.cells), self.unknown, device=device)
        return majority(condition.label_map.to(device), self.cells, self.unknown)


class MapPrefix(MapCells):
    """A vector for the class of each cell, and one for cells of which it is not known (semantic synthesis by VQGAN,
    Esser et al., 2021, section 4.2, whose map is tokens of a VQGAN of maps); d is `width`."""

    def __init__(self, space: ImageSpace, scale: int, width: int) -> None:
        super().__init__(space, scale)
        self.length = self.cells[0] * self.cells[1]
        self.table = nn.Embedding(self.unknown + 1, width)

    def forward(self, condition: Condition, count: int) -> Float[Tensor, "b p d"]:
        vectors: Tensor = self.table(self.classes(condition, count, self.table.weight.device).flatten(1))
        return vectors

    def turns(self, dim: int, base: float) -> Float[Tensor, "2 p e"]:
        """Those of the cells' centres in the grid of tokens."""
        return turns(grid_places(*self.cells, self.scale), dim, base)


class AddedMap(MapCells):
    """A start vector as prefix, and the vectors of a position's cells added to the input that predicts it, as ControlAR
    does in its blocks (Li et al., arXiv 2410.02705); each of the s x s places of a cell has vectors of its own."""

    length = 1

    def __init__(self, space: ImageSpace, scale: int, width: int) -> None:
        super().__init__(space, scale)
        self.start = nn.Embedding(1, width)
        self.table = nn.Embedding(scale**2 * (self.unknown + 1), width)

    def forward(self, condition: Condition, count: int) -> Float[Tensor, "b 1 d"]:
        return self.start.weight.expand(count, 1, -1)

    def added(self, condition: Condition, count: int) -> Float[Tensor, "b n d"]:
        device, (rows, columns), scale = self.table.weight.device, self.cells, self.scale
        cells = self.classes(condition, count, device).view(
            count, rows // scale, scale, columns // scale, scale
        )
        of_token = cells.transpose(2, 3).flatten(3).flatten(1, 2)  # b, n, cells
        places = torch.arange(scale**2, device=device) * (self.unknown + 1)
        return self.table(of_token + places).sum(dim=2)

    def turns(self, dim: int, base: float) -> Float[Tensor, "2 1 e"]:
        """Zeros, as of a class."""
        return torch.zeros(2, 1, dim)


def majority(
    label_map: Int64[Tensor, "b H W"], cells: tuple[int, int], unknown: int
) -> Int64[Tensor, "b rows columns"]:
    """The class of most pixels of each cell, of equally many the lowest; pixels of -1 count as the class `unknown`."""
    rows, columns = cells
    known = torch.where(label_map < 0, unknown, label_map)
    tall, wide = (side // count for side, count in zip(label_map.shape[1:], cells, strict=True))
    parts = known.view(-1, rows, tall, columns, wide).transpose(2, 3)
    return parts.flatten(3).mode(dim=3).values
