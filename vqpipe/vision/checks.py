"""What vectors must be before they are clustered, checked in one pass over all ranks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vqpipe.errors import DataError, MismatchError
from vqpipe.vision.vectors import Part, Vectors, gather


def check_count(vectors: Vectors, num_clusters: int) -> None:
    """Raise unless there are vectors for `num_clusters` clusters.

    Raises:
        DataError: not a matrix of at least one dimension.
        MismatchError: more clusters than vectors.
    """
    shape = np.shape(vectors[0:1])
    if len(shape) != 2 or shape[1] == 0:
        raise DataError(
            "k-means takes a matrix of vectors", found=f"vectors of shape {shape[1:]}", expected="(n, d)"
        )
    if not 1 <= num_clusters <= len(vectors):
        raise MismatchError(
            "k-means cannot make more clusters than there are vectors",
            found=f"num_clusters {num_clusters}, {len(vectors)} vectors",
            expected="num_clusters of at most the number of vectors, and well below it",
        )


def largest_value(part: Part, num_clusters: int) -> float:
    """The largest absolute value among the vectors of all ranks.

    Raises:
        DataError: vectors that are not finite or, with more than one cluster, all the same; on every rank.
    """
    dim = part.vectors[0:1].shape[1]
    nowhere = float(len(part.vectors))
    first_bad = nowhere
    low = torch.full((dim,), torch.inf, dtype=torch.float64, device=part.device)
    high = -low

    def work(start: int, tile: Tensor) -> tuple[int, Tensor, Tensor]:
        bad = ~tile.isfinite().all(dim=1)
        return int(bad.int().argmax()) if bad.any() else -1, tile.amin(dim=0), tile.amax(dim=0)

    for start, (bad, least, most) in part.map(work):
        if bad >= 0:
            first_bad = min(first_bad, float(part.first + start + bad))
        low, high = torch.minimum(low, least.double()), torch.maximum(high, most.double())
    # Infinities do not survive a sum with zeros, which is how ranks exchange values.
    seen = torch.tensor(float(len(part) > 0), dtype=torch.float64, device=part.device).expand(1)
    table = gather(torch.cat([torch.tensor([first_bad], dtype=torch.float64, device=part.device), seen]))
    found = table[:, 0].min()
    if float(found) < nowhere:
        raise DataError(
            "k-means: the vectors are not all finite",
            found=f"NaN or infinity, first in vector {int(found)}",
            expected="finite features",
            run="dvc repro patches",
        )
    has = table[:, 1] > 0
    low = gather(low if len(part) else torch.zeros_like(low))[has].amin(dim=0)
    high = gather(high if len(part) else torch.zeros_like(high))[has].amax(dim=0)
    if num_clusters > 1 and bool((low == high).all()):
        raise DataError(
            "k-means: all vectors are the same",
            found=f"{len(part.vectors)} equal vectors of {dim} dimensions",
            expected="features that tell patches apart; look at the images and the CLIP that made them",
        )
    return float(torch.maximum(low.abs(), high.abs()).max())
