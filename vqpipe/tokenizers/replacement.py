"""What single tokens mean: images decoded from token maps in which tokens were exchanged for others.

Two ways. `replace_tokens` puts the tokens of one image into a region of another's. `replace_by_neighbours` exchanges
every token for a near one of its own codebook, as VQGAN-LC's appendix B and figure 5 do (arXiv 2406.11837): the larger
a codebook that is in use, the less an image changes when each token becomes its n-th nearest; `neighbour_psnr`
measures that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

from vqpipe.codebooks.search import Metric, nearest_topk
from vqpipe.data.loader import to_float, to_uint8
from vqpipe.errors import MismatchError
from vqpipe.metrics.images import ERRORS
from vqpipe.tokenizers.judges import Coder, reconstruct

_ROWS = 4096
"""Codes whose neighbours are searched at once."""
_BORDER = 2
"""Pixels between the pictures of a grid, white."""


def replace_tokens(
    indices_a: Int[Tensor, "b g h w"], indices_b: Int[Tensor, "b g h w"], mask: Bool[Tensor, "*b h w"]
) -> Int[Tensor, "b g h w"]:
    """The tokens of A, and in all groups those of B where the mask is true.

    Args:
        indices_a: tokens of the images that are changed.
        indices_b: tokens of as many images, of the same tokenizer.
        mask: (h, w) for all images, or (b, h, w).

    Raises:
        MismatchError: maps or a mask of other shapes, or a mask that is not boolean.
    """
    b, _, h, w = indices_a.shape
    if indices_b.shape != indices_a.shape:
        raise MismatchError(
            "the token maps are not of one tokenizer and as many images",
            found=f"{tuple(indices_a.shape)} and {tuple(indices_b.shape)}",
            expected="(b, g, h, w) twice",
        )
    if mask.dtype != torch.bool or mask.shape not in ((h, w), (b, h, w)):
        raise MismatchError(
            "the mask does not fit the token maps",
            found=f"{mask.dtype} of shape {tuple(mask.shape)}",
            expected=f"booleans of shape ({h}, {w}) or ({b}, {h}, {w})",
        )
    where = mask.to(indices_a.device).expand(b, h, w)[:, None]
    return torch.where(where, indices_b.to(indices_a), indices_a)


@torch.no_grad()
def replacement_grid(
    tokenizer: Coder,
    images_a: Float[Tensor, "b 3 H W"],
    images_b: Float[Tensor, "b 3 H W"],
    mask: Bool[Tensor, "*b h w"],
) -> UInt8[Tensor, "3 Y X"]:
    """A picture with a row for each pair of images: A, B, A decoded, B decoded, and A decoded with B's tokens where
    the mask is true.

    Args:
        tokenizer: in eval mode.
        images_a: in [-1, 1], on the tokenizer's device.
        images_b: as many.
        mask: over the grid of tokens, (h, w) for all pairs or (b, h, w).

    Returns:
        RGB on the CPU, white between the pictures: Y = b (H + 2) - 2, X = 5 (W + 2) - 2.

    Raises:
        MismatchError: as `replace_tokens`.
    """
    tokens_a, tokens_b = tokenizer.encode(images_a), tokenizer.encode(images_b)
    mixed = replace_tokens(tokens_a, tokens_b, mask)
    shown = [to_uint8(images_a), to_uint8(images_b)]
    shown += [reconstruct(tokenizer, tokens) for tokens in (tokens_a, tokens_b, mixed)]
    cells = torch.stack([pictures.cpu() for pictures in shown], dim=1)
    rows, columns, _, height, width = cells.shape
    step_y, step_x = height + _BORDER, width + _BORDER
    grid = torch.full((3, rows * step_y - _BORDER, columns * step_x - _BORDER), 255, dtype=torch.uint8)
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            grid[:, y * step_y : y * step_y + height, x * step_x : x * step_x + width] = cell
    return grid


@torch.no_grad()
def replace_by_neighbours(
    tokenizer: Coder, indices: Int[Tensor, "b g h w"], rank: int, metric: Metric = "euclidean"
) -> Int64[Tensor, "b g h w"]:
    """Every token's `rank`-th nearest other code of its own codebook; rank 0 leaves all as they are.

    Of codes at the same distance the lower index is the nearer.

    Args:
        tokenizer: gives the codebooks.
        indices: tokens, below K of their groups.
        rank: 0 to K - 1 of the smallest codebook.
        metric: `euclidean`, or `cosine` for a quantizer that searches so.

    Raises:
        MismatchError: a group has no such rank, or the method has no code vectors.
    """
    books = tokenizer.codebooks()
    smallest = min((len(book.vectors) for book in books), default=0)
    if len(books) != indices.shape[1] or not 0 <= rank < smallest:
        raise MismatchError(
            "there is no such neighbour of a token",
            found=f"rank {rank}, {indices.shape[1]} groups, codebooks of {[len(b.vectors) for b in books]}",
            expected="a rank below the size of the smallest codebook",
        )
    groups = []
    for group, book in enumerate(books):
        used, place = torch.unique(indices[:, group], return_inverse=True)
        groups.append(_neighbours(book.vectors, used.long(), rank, metric)[place])
    return torch.stack(groups, dim=1)


def neighbour_psnr(
    tokenizer: Coder,
    images: UInt8[Tensor, "n 3 H W"],
    ranks: Sequence[int],
    metric: Metric = "euclidean",
    batch_size: int = 32,
) -> dict[int, float]:
    """By rank, the mean PSNR in dB over images decoded from `replace_by_neighbours`, against the originals (VQGAN-LC,
    figure 5, ranks 1, 50, 100 and 1,000; rank 0 is the plain reconstruction).

    Args:
        tokenizer: in eval mode.
        images: at its resolution, on its device.
        ranks: which neighbours.
        metric: as in `replace_by_neighbours`.
        batch_size: images at once.

    Raises:
        MismatchError: as `replace_by_neighbours`.
        DataError: the decoder's output is not finite.
    """
    found: dict[int, list[np.ndarray]] = {rank: [] for rank in ranks}
    for part in torch.split(images, batch_size):
        indices = tokenizer.encode(to_float(part))
        for rank, psnr in found.items():
            made = reconstruct(tokenizer, replace_by_neighbours(tokenizer, indices, rank, metric))
            psnr.append(ERRORS["psnr"](part, made))
    return {rank: float(np.concatenate(psnr).mean()) for rank, psnr in found.items()}


def _neighbours(
    codes: Float[Tensor, "K d"], used: Int64[Tensor, " n"], rank: int, metric: Metric
) -> Int64[Tensor, " n"]:
    """The `rank`-th nearest other code of each used one; a code that another one equals is not the nearest itself."""
    if rank == 0:
        return used
    found = []
    for own in torch.split(used, _ROWS):
        near = nearest_topk(codes[own], codes, rank + 1, metric)
        itself = (near == own[:, None]).int()
        before = itself.cumsum(1)[:, :rank].amax(1)  # whether it is among the first `rank`
        found.append(near.gather(1, (rank - 1 + before)[:, None])[:, 0])
    return torch.cat(found)
