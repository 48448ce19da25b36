"""The pictures behind an evaluation: examples with their errors, and images decoded after tokens were exchanged.

What single tokens mean is shown in two ways. `replace_by_neighbours` exchanges every token for a near one of its own
codebook, as VQGAN-LC's appendix B and figure 5 do (arXiv 2406.11837): the more codes of a codebook are in use, the less
an image changes when each token becomes its n-th nearest. `replace_tokens` puts the tokens of one image into a region
of another's: what stays in its place is what a token encodes of its own place alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64, UInt8
from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.codebooks.search import Metric, nearest_topk
from vqpipe.data.images import encode_png
from vqpipe.errors import MismatchError
from vqpipe.evaluation.reconstructions import Images, TokenizerLike, decode_to_uint8
from vqpipe.metrics.images import ERRORS
from vqpipe.params.base import Params
from vqpipe.runtime.batches import slices
from vqpipe.runtime.seeds import numpy_rng

_ROWS = 4096
"""Codes whose neighbours are searched at once."""


class ReplacedParams(Params):
    """Token replacement (VQGAN-LC, appendix B and figure 5): every token becomes a near code of its codebook."""

    num_images: Annotated[int, Field(ge=1, le=1000)]
    """Test images, drawn at random, the same for every tokenizer; the PSNR by rank is their mean."""
    ranks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=8)]
    """Which neighbours, rising: 1 is the nearest other code. Those that a smaller codebook does not have are left
    out for it, and named."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.ranks) != sorted(set(self.ranks)):
            raise ValueError(f"ranks must increase, without repeats; they are {list(self.ranks)}")
        return self


class ExampleParams(Params):
    """What is kept as pictures for the report."""

    num_images: Annotated[int, Field(ge=0)]
    """Reconstructions kept of each kind: random; hard, typical and easy for the block mean; the worst."""
    num_codes: Annotated[int, Field(ge=0)]
    """Most used codes, per group, for which patches are kept."""
    num_patches: Annotated[int, Field(ge=0)]
    """Patches kept for each of these codes."""
    replaced: ReplacedParams | None = None
    """Images decoded after their tokens were replaced; null keeps none."""


def png_of(image: UInt8[Tensor, "3 h w"]) -> bytes:
    """An RGB image as a PNG file's bytes."""
    return encode_png(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))


def choose_examples(psnr: np.ndarray, floor_psnr: np.ndarray, count: int, seed: int) -> list[tuple[str, int]]:
    """(kind, position) pairs: `count` images of each kind.

    `hard`, `typical` and `easy` are the images with the lowest, middle and highest PSNR of the block-mean floor, and
    `random` ones are drawn: all the same for every tokenizer of that grid, so that a row of pictures compares
    tokenizers. `worst` are this tokenizer's own. Kinds may share images; ties go to the earlier image.
    """
    order, n = np.argsort(floor_psnr, kind="stable"), len(psnr)
    count = min(count, n)
    middle = (n - count) // 2
    chosen = {
        "random": np.sort(numpy_rng(seed, "examples").choice(n, count, replace=False)),
        "hard": order[:count],
        "typical": order[middle : middle + count],
        "easy": order[n - count :][::-1],
        "worst": np.argsort(psnr, kind="stable")[:count],
    }
    return [(kind, int(position)) for kind, positions in chosen.items() for position in positions]


def example_rows(
    images: Images,
    reconstruct: Callable[[np.ndarray], Tensor],
    columns: Mapping[str, Any],
    floor_psnr: np.ndarray,
    config: ExampleParams,
    seed: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Rows of the examples table; `columns` are those of the per-image table; `batch_size`: images decoded at once."""
    chosen = choose_examples(np.asarray(columns["psnr"]), floor_psnr, config.num_images, seed)
    if not chosen:
        return []
    positions = np.unique([position for _, position in chosen])
    pictures = {}
    for at in slices(len(positions), batch_size):
        some = positions[at]
        for position, original, made in zip(some, images.take(some), reconstruct(some), strict=True):
            pictures[int(position)] = (png_of(original), png_of(made))
    rows = []
    for kind, position in chosen:
        original, made = pictures[position]
        row = {"kind": kind, "original": original, "reconstruction": made}
        rows.append(
            row | {name: columns[name][position] for name in ("image_id", "psnr", "ssim", "perceptual")}
        )
    return rows


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
            "the two token maps have different shapes",
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


def middle_mask(grid: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """The middle of a grid of tokens: half of its rows and columns, at least one."""
    inside = []
    for count in grid:
        start = count // 4
        line = torch.zeros(count, dtype=torch.bool)
        line[start : start + max(1, count // 2)] = True
        inside.append(line)
    return inside[0][:, None] & inside[1]


def available_ranks(tokenizer: TokenizerLike, ranks: Sequence[int]) -> list[int]:
    """Those of the ranks that the smallest codebook has."""
    smallest = min(tokenizer.num_codes)
    return [rank for rank in ranks if rank < smallest]


@torch.no_grad()
def replace_by_neighbours(
    tokenizer: TokenizerLike, indices: Int[Tensor, "b g h w"], rank: int
) -> Int64[Tensor, "b g h w"]:
    """Every token's `rank`-th nearest other code of its own codebook; rank 0 leaves all as they are.

    Distance is what the method searches by (`Codebook.metric`); of codes at the same distance the lower index counts as
    nearer.

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
            "a token has no neighbour of this rank",
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
class Replacements:
    """Images whose tokens were replaced."""

    rows: list[dict[str, Any]]
    """Of the evaluation's table."""
    psnr: dict[int, Float64[np.ndarray, " n"]]
    """In dB, of each image by rank; 0 is the plain reconstruction."""
    left_out: list[int]
    """Ranks that the tokenizer does not have."""


@torch.no_grad()
def replace_in_images(
    tokenizer: TokenizerLike,
    images: Images,
    indices: Int[Tensor, "n g h w"],
    config: ReplacedParams,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> Replacements:
    """Token replacement in some of the images, drawn at random, the same ones for every tokenizer.

    Args:
        tokenizer: in eval mode on `device`.
        images: at its resolution.
        indices: the tokens of all of them.
        batch_size: images decoded at once.

    Raises:
        DataError: the decoder's output is not finite.
    """
    drawn = numpy_rng(seed, "replaced").permutation(len(images))[: config.num_images]
    tokens = indices[torch.from_numpy(drawn)].long()
    ranks = available_ranks(tokenizer, config.ranks)
    maps = {rank: replace_by_neighbours(tokenizer, tokens, rank) for rank in [0, *ranks]}
    others = np.roll(drawn, -1)
    mixed = replace_tokens(
        tokens, tokens.roll(-1, 0), middle_mask((int(tokens.shape[2]), int(tokens.shape[3])))
    )
    psnr = {rank: np.empty(len(drawn)) for rank in maps}
    ids, rows = images.ids, []
    for at in slices(len(drawn), batch_size):
        originals = _in_order(images, drawn[at])
        made = {
            rank: decode_to_uint8(tokenizer, changed[at].to(device)).cpu() for rank, changed in maps.items()
        }
        mixtures = decode_to_uint8(tokenizer, mixed[at].to(device)).cpu() if len(drawn) > 1 else None
        for rank, pictures in made.items():
            psnr[rank][at] = ERRORS["psnr"](originals, pictures)
        rows += [
            {
                "image_id": ids[drawn[i]], "original": png_of(originals[j]), "reconstruction": png_of(made[0][j]),
                "psnr": float(psnr[0][i]), "tokens": tokens[i].numel(), "ranks": ranks,
                "pictures": [png_of(made[rank][j]) for rank in ranks],
                "psnrs": [float(psnr[rank][i]) for rank in ranks],
                "changed": [int((maps[rank][i] != tokens[i]).sum()) for rank in ranks],
                "other_id": ids[others[i]] if mixtures is not None else None,
                "mixed": png_of(mixtures[j]) if mixtures is not None else None,
                "mixed_changed": int((mixed[i] != tokens[i]).sum()) if mixtures is not None else None,
            }
            for j, i in enumerate(range(at.start, at.stop))
        ]  # fmt: skip
    return Replacements(rows, psnr, [rank for rank in config.ranks if rank not in ranks])


def _in_order(images: Images, positions: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
    """Images at positions in any order; sources read them in rising order."""
    order = np.sort(positions)
    return images.take(order)[torch.from_numpy(np.searchsorted(order, positions))]
