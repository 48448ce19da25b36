"""What single tokens mean: images decoded from token maps in which tokens were exchanged for others.

Two ways. `replace_by_neighbours` exchanges every token for a near one of its own codebook, as VQGAN-LC's appendix B
and figure 5 do (arXiv 2406.11837): the more codes of a codebook are in use, the less an image changes when each token
becomes its n-th nearest. `replace_tokens` puts the tokens of one image into a region of another's: what stays where it
was put is what a token says of its own place alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64, UInt8
from torch import Tensor

from vqpipe.codebooks.search import Metric, nearest_topk
from vqpipe.errors import MismatchError
from vqpipe.evaluation.judges import Coder, Images, reconstruct
from vqpipe.evaluation.pictures import png_of
from vqpipe.metrics.images import ERRORS
from vqpipe.params.evaluate import ReplacedParams
from vqpipe.runtime.seeds import numpy_rng

_ROWS = 4096
"""Codes whose neighbours are searched at once."""


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


def middle(grid: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """The middle of a grid of tokens: half of its rows and columns, at least one."""
    inside = []
    for count in grid:
        start = count // 4
        line = torch.zeros(count, dtype=torch.bool)
        line[start : start + max(1, count // 2)] = True
        inside.append(line)
    return inside[0][:, None] & inside[1]


def ranks_there(coder: Coder, ranks: Sequence[int]) -> list[int]:
    """Those of the ranks that the smallest codebook has."""
    smallest = min(coder.num_codes)
    return [rank for rank in ranks if rank < smallest]


@torch.no_grad()
def replace_by_neighbours(
    tokenizer: Coder, indices: Int[Tensor, "b g h w"], rank: int
) -> Int64[Tensor, "b g h w"]:
    """Every token's `rank`-th nearest other code of its own codebook; rank 0 leaves all as they are.

    Near is what the method searches by (`Codebook.metric`); of codes that are as near the lower index is the nearer.

    Args:
        tokenizer: gives the codebooks.
        indices: tokens, below K of their groups.
        rank: 0 to K - 1 of the smallest codebook.

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
        found = _neighbours(book.vectors, used.long().to(book.vectors.device), rank, book.metric)
        groups.append(found.to(indices.device)[place])
    return torch.stack(groups, dim=1)


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


@dataclass(frozen=True)
class Replaced:
    """The rows of the evaluation's table, the PSNR in dB of each image by rank (0: the plain reconstruction), and the
    ranks that the tokenizer does not have."""

    rows: list[dict[str, Any]]
    psnr: dict[int, Float64[np.ndarray, " n"]]
    left_out: list[int]


@torch.no_grad()
def replace_in_images(
    coder: Coder,
    images: Images,
    indices: Int[Tensor, "n g h w"],
    config: ReplacedParams,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> Replaced:
    """Token replacement in some of the images, drawn at random, the same ones whatever the tokenizer.

    Args:
        coder: the tokenizer, in eval mode on `device`.
        images: at its resolution.
        indices: the tokens of all of them.
        batch_size: images decoded at once.

    Raises:
        DataError: the decoder's output is not finite.
    """
    drawn = numpy_rng(seed, "replaced").permutation(len(images))[: config.num_images]
    order = np.sort(drawn)
    originals = images.take(order)[torch.from_numpy(np.searchsorted(order, drawn))]
    tokens = indices[torch.from_numpy(drawn)].long()
    ranks = ranks_there(coder, config.ranks)
    maps = {rank: replace_by_neighbours(coder, tokens, rank) for rank in [0, *ranks]}
    others = np.roll(drawn, -1)
    mixed = replace_tokens(tokens, tokens.roll(-1, 0), middle((int(tokens.shape[2]), int(tokens.shape[3]))))
    made = {rank: _decode(coder, changed, batch_size, device) for rank, changed in maps.items()}
    mixtures = _decode(coder, mixed, batch_size, device) if len(drawn) > 1 else None
    psnr = {rank: ERRORS["psnr"](originals, pictures) for rank, pictures in made.items()}
    ids = images.ids
    rows = [
        {
            "image_id": ids[position], "original": png_of(originals[i]), "reconstruction": png_of(made[0][i]),
            "psnr": float(psnr[0][i]), "tokens": tokens[i].numel(), "ranks": ranks,
            "pictures": [png_of(made[rank][i]) for rank in ranks],
            "psnrs": [float(psnr[rank][i]) for rank in ranks],
            "changed": [int((maps[rank][i] != tokens[i]).sum()) for rank in ranks],
            "other_id": ids[others[i]] if mixtures is not None else None,
            "mixed": png_of(mixtures[i]) if mixtures is not None else None,
            "mixed_changed": int((mixed[i] != tokens[i]).sum()) if mixtures is not None else None,
        }
        for i, position in enumerate(drawn)
    ]  # fmt: skip
    return Replaced(rows, psnr, [rank for rank in config.ranks if rank not in ranks])


def _decode(
    coder: Coder, tokens: Int64[Tensor, "n g h w"], batch_size: int, device: torch.device
) -> UInt8[Tensor, "n 3 H W"]:
    return torch.cat([reconstruct(coder, part.to(device)).cpu() for part in torch.split(tokens, batch_size)])
