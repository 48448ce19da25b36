"""Linear probe: how well a linear classifier reads an image's class from a tokenizer's quantised latents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64
from pydantic import Field

from vqpipe.artifacts.metrics import Metrics
from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.errors import DataError, MismatchError
from vqpipe.metrics.measured import Interval, interval
from vqpipe.params.base import Params
from vqpipe.runtime.batches import slices

if TYPE_CHECKING:
    from vqpipe.tokenizers.tokenizer import Tokenizer

MAX_ITERATIONS = 1000


class ProbeParams(Params):
    """The linear probe: multinomial logistic regression on frozen features, as in self-supervised learning."""

    cells: Annotated[int, Field(ge=1)] = 4
    """The latent is averaged to cells x cells; the features are the d channels of each cell. At most the token grid."""
    strengths: tuple[Annotated[float, Field(gt=0)], ...] = (0.001, 0.01, 0.1, 1.0)
    """Inverse L2 penalties; the one with the best accuracy on the validation split is taken."""
    num_bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap resamples of the interval."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the bootstrap."""


class ProbeMetrics(Metrics):
    """What the probe found on the test split."""

    accuracy: Interval
    """Share of the images whose class is predicted, in [0, 1]; 95 % bootstrap over images."""
    chance: float
    """Share of the commonest class of the training split among the test images."""
    num_classes: int
    """Classes in the training split."""
    dim: int
    """Length of a feature: cells^2 x d."""
    strength: float
    """The inverse penalty that was chosen."""


def linear_probe(
    tokenizer: Tokenizer, dataset: Path, config: ProbeParams, batch_size: int = 100
) -> ProbeMetrics:
    """Fit the probe on the training split, choose its penalty on the validation split, measure it on the test split.

    Images are centre-cropped and not flipped; features are standardised with the training split's mean and deviation;
    images without a class are left out.

    Args:
        tokenizer: in eval mode; encodes to indices, and the features are those of the decoded codes.
        dataset: the dataset artifact.

    Raises:
        DataError: fewer than two classes in the training split, or a split without an image that has a class.
        MismatchError: more cells than the token grid has.
    """
    check_cells(config.cells, min(tokenizer.grid))
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features, labels = {}, {}
    for split in ("train", "validation", "test"):
        images = ImageSplit.open(dataset, split, tokenizer.resolution)
        known = images.labels >= 0
        if not known.any():
            raise DataError(f"linear probe: no image of the {split} split has a class", found=str(dataset))
        features[split] = np.concatenate(list(_features(tokenizer, images, known, config.cells, batch_size)))
        labels[split] = images.labels[known]
    if len(np.unique(labels["train"])) < 2:
        raise DataError("linear probe: the images are of one class", found=str(dataset))
    scaler = StandardScaler().fit(features["train"])
    scaled = {split: scaler.transform(rows) for split, rows in features.items()}
    best: tuple[float, float, Bool[np.ndarray, " n"]] | None = None
    for strength in config.strengths:
        model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS).fit(scaled["train"], labels["train"])
        found = float(model.score(scaled["validation"], labels["validation"]))
        if best is None or found > best[0]:
            best = (found, strength, model.predict(scaled["test"]) == labels["test"])
    assert best is not None, "params name a strength"
    commonest = np.bincount(labels["train"]).argmax()
    return ProbeMetrics(
        accuracy=interval(best[2].astype(np.float64), config.num_bootstrap, config.seed),
        chance=float((labels["test"] == commonest).mean()), num_classes=len(np.unique(labels["train"])),
        dim=features["train"].shape[1], strength=best[1],
    )  # fmt: skip


def check_cells(cells: int, tokens: int) -> None:
    """Raise `MismatchError` for more cells than the tokens of a side: features would repeat."""
    if cells > tokens:
        raise MismatchError(
            "probe.cells is more than the tokens of a side", found=cells, expected=f"at most {tokens}"
        )


@torch.inference_mode()
def _features(
    tokenizer: Tokenizer, images: ImageSplit, known: Bool[np.ndarray, " n"], cells: int, batch_size: int
) -> Iterator[Float32[np.ndarray, "b f"]]:
    positions: Int64[np.ndarray, " m"] = np.flatnonzero(known)
    for rows in slices(len(positions), batch_size):
        pixels = images.gather(positions[rows], None, "centre", False)
        latent = tokenizer.quantizer.decode(tokenizer.encode(to_float(pixels.to(tokenizer.device))))
        yield F.adaptive_avg_pool2d(latent.float(), cells).flatten(1).cpu().numpy()
