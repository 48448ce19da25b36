"""Image-text retrieval on a split: recall at 1 and 5 beside chance."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.errors import DataError
from vqpipe.vision.clip import Clip

BATCH = 128
RANKS = (1, 5)


def evaluate_retrieval(
    clip: Clip, split: ImageSplit, num_images: int, device: torch.device
) -> dict[str, float | int]:
    """Recall among the first `num_images` captioned images of a split and all their distinct captions.

    An image's captions are right for it, also where other images share the text. Chance is the recall of a
    random order of the candidates.

    Raises:
        DataError: fewer than two captioned images.
    """
    rows = [row for row in range(len(split)) if split.captions[row]][:num_images]
    if len(rows) < 2:
        raise DataError(
            "retrieval needs validation images with captions", found=f"{len(rows)}", expected="2 or more"
        )
    texts = sorted({text for row in rows for text in split.captions[row]})
    right = positives([split.captions[row] for row in rows], texts)
    with torch.no_grad():
        parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        images = torch.cat(
            [
                clip.encode_image(to_float(split.gather(part, None, "centre", False)).to(device))
                for part in parts
            ]
        )
        words = clip.encode_text(texts)
        similarity = (normalize(images, dim=-1) @ normalize(words, dim=-1).T).cpu()
    result: dict[str, float | int] = {"num_validation": len(rows), "num_texts": len(texts)}
    for name, scores, truth in (
        ("image_to_text", similarity, right),
        ("text_to_image", similarity.T, right.T),
    ):
        for rank in RANKS:
            result[f"{name}_r{rank}"] = recall(scores, truth, rank)
            result[f"chance_{name}_r{rank}"] = chance(truth, rank)
    return result


def positives(captions: Sequence[Sequence[str]], texts: Sequence[str]) -> Bool[Tensor, "n t"]:
    """Which of the distinct `texts` are captions of which image."""
    column = {text: number for number, text in enumerate(texts)}
    right = torch.zeros(len(captions), len(texts), dtype=torch.bool)
    for row, own in enumerate(captions):
        right[row, [column[text] for text in own]] = True
    return right


def recall(scores: Float[Tensor, "q c"], right: Bool[Tensor, "q c"], rank: int) -> float:
    """Share of queries with a right candidate among the `rank` best; ties go to the earlier candidate."""
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :rank]
    return float(right.gather(1, best).any(dim=1).double().mean())


def chance(right: Bool[Tensor, "q c"], rank: int) -> float:
    """Expected recall of a random order: the mean of 1 - C(c - p, rank) / C(c, rank), p right of c."""
    total = right.shape[1]
    counts, weights = torch.unique(right.sum(dim=1), return_counts=True)
    ways = comb(total, min(rank, total))
    hits = [
        (1 - comb(total - int(p), min(rank, total)) / ways) * int(w)
        for p, w in zip(counts, weights, strict=True)
    ]
    return sum(hits) / right.shape[0]
