"""The numbers of a reading, from what was gathered over the batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from vqpipe.alignment.aligner import Aligner
from vqpipe.alignment.text import TextBatch
from vqpipe.errors import DataError
from vqpipe.metrics.bootstrap import mean_interval
from vqpipe.params.reading import ReadingParams
from vqpipe.reading.frozen_codes import FrozenCodes
from vqpipe.reading.retrieval import chances, recalls
from vqpipe.reading.words import Word, WordRelations

RANKS = (1, 5, 10)
QUERIES = 1024
"""Queries that are ranked at once."""

Interval = dict[str, float]


@dataclass(frozen=True)
class MaskedExample:
    """What an aligner says of the masked words of one caption."""

    numbers: tuple[int, ...]
    """Which words are masked, rising."""
    words: list[Word]
    logits: list[Float[Tensor, "p v"]]
    """Of each word's pieces, on the CPU."""


@dataclass(frozen=True)
class Measured:
    """What one aligner reads."""

    metrics: dict[str, Any]
    """JSON content."""
    per_image: dict[str, Float64[np.ndarray, " n"]]
    """Each measure by name, NaN for an image that has no value."""
    scores: Float[Tensor, "n n"] | None
    """Cosines of image i's global token and caption j, on the CPU; None without a global head."""
    texts: Int64[np.ndarray, " n"]
    """The number of each caption's text: equal for equal ones, as the first of them is numbered."""
    relations: list[tuple[Int64[np.ndarray, " b"], WordRelations]]
    """Of the example images alone."""
    masks: dict[int, dict[int, MaskedExample]]
    """Of the example images alone, by masked count and image."""


@dataclass
class Gathered:
    """What is gathered over the batches."""

    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    features: list[Tensor] = field(default_factory=list)
    cosines: dict[str, list[np.ndarray]] = field(default_factory=dict)
    relations: list[tuple[np.ndarray, WordRelations]] = field(default_factory=list)
    masks: dict[int, dict[int, MaskedExample]] = field(default_factory=dict)

    def add(self, name: str, values: np.ndarray) -> None:
        """Note a batch's values of a measure, in the images' order."""
        self.values.setdefault(name, []).append(values)


def summarised(
    aligner: Aligner, codes: FrozenCodes, text: TextBatch, config: ReadingParams, seen: Gathered
) -> Measured:
    """The metrics and values per image; what they are and what is raised is said at `measure_reading`."""
    per_image = {name: np.concatenate(parts) for name, parts in seen.values.items()}
    metrics: dict[str, Any] = {}
    for count in config.masked_counts if aligner.masked_text is not None else ():
        metrics[f"masked_{count}"] = _masked_metrics(count, per_image, config)
    texts = _text_numbers(text)
    scores = None
    if aligner.global_alignment is not None:
        scores = _scores(codes, torch.cat(seen.features), text.features)
        for direction in ("image_to_text", "text_to_image"):
            metrics[direction] = _retrieval(direction, scores, texts, per_image, config)
    if "words" in seen.cosines:
        metrics["similarity"] = _similarity_metrics(per_image, seen, config)
    return Measured(metrics, per_image, scores, texts, seen.relations, seen.masks)


def _masked_metrics(count: int, per_image: dict[str, np.ndarray], config: ReadingParams) -> dict[str, Any]:
    values = {
        name: per_image[f"masked_{count}.{name}"] for name in ("recall", "other_image", "commonest", "chance")
    }
    has = np.isfinite(values["recall"])
    return {
        "num_captions": int(has.sum()),
        "num_left_out": int((~has).sum()),
        "recall": _interval(values["recall"], config),
        "other_image": _interval(values["other_image"], config),
        "commonest": float(values["commonest"][has].mean()),
        "chance": float(values["chance"][has].mean()),
    }


def _interval(values: Float64[np.ndarray, " n"], config: ReadingParams) -> Interval:
    return mean_interval(values[np.isfinite(values)], config.num_bootstrap, config.seed)


def _text_numbers(text: TextBatch) -> Int64[np.ndarray, " n"]:
    numbers: dict[tuple[int, ...], int] = {}
    rows = text.tokens.masked_fill(~text.real(), -1).tolist()
    return np.array([numbers.setdefault(tuple(row), len(numbers)) for row in rows], dtype=np.int64)


def _scores(
    codes: FrozenCodes, images: Float[Tensor, "n e"], texts: Float[Tensor, "n e"]
) -> Float[Tensor, "n n"]:
    """Cosines; images of equal codes have equal ones to the last bit, so that they tie."""
    if not bool(images.isfinite().all()):
        raise DataError("the codes' global tokens are not finite", expected="a sound tokenizer and aligner")
    _, first, again = np.unique(
        codes.indices.flatten(1).numpy(), axis=0, return_index=True, return_inverse=True
    )
    image, text = (torch.nn.functional.normalize(part.float(), dim=1) for part in (images, texts))
    return (image[torch.from_numpy(first)] @ text.T)[torch.from_numpy(again.reshape(-1))]


def _retrieval(
    direction: str,
    scores: Float[Tensor, "n n"],
    texts: Int64[np.ndarray, " n"],
    per_image: dict[str, np.ndarray],
    config: ReadingParams,
) -> dict[str, Any]:
    """Recalls and chance; one query for each image or caption. Its values are put into `per_image`."""
    number = torch.from_numpy(texts)
    candidates = number
    if direction == "image_to_text":
        first = torch.from_numpy(np.unique(texts, return_index=True)[1])
        scores, candidates = scores[:, first], number[first]
    else:
        scores = scores.T
    parts: dict[str, list[np.ndarray]] = {}
    for at in range(0, len(scores), QUERIES):
        own = scores[at : at + QUERIES]
        right = number[at : at + QUERIES, None] == candidates
        for rank in RANKS:
            parts.setdefault(f"r{rank}", []).append(recalls(own, right, rank))
            parts.setdefault(f"chance_r{rank}", []).append(chances(right, rank))
    result: dict[str, Any] = {"num_queries": len(scores), "num_candidates": len(candidates)}
    for rank in RANKS:
        values = per_image[f"{direction}.r{rank}"] = np.concatenate(parts[f"r{rank}"])
        result[f"r{rank}"] = _interval(values, config)
        result[f"chance_r{rank}"] = float(np.concatenate(parts[f"chance_r{rank}"]).mean())
    return result


def _similarity_metrics(
    per_image: dict[str, np.ndarray], seen: Gathered, config: ReadingParams
) -> dict[str, Any]:
    pooled = {name: np.concatenate(parts) for name, parts in seen.cosines.items()}
    has = np.isfinite(per_image["similarity.raw"])
    result: dict[str, Any] = {"num_captions": int(has.sum()), "num_left_out": int((~has).sum())}
    if not has.any():
        return result
    words, weights = pooled["words"], pooled["weights"]
    for name in ("raw", "projected"):
        if name in pooled:
            result[name] = {
                "mse": _interval(per_image[f"similarity.{name}"], config),
                "chance": _interval(per_image[f"similarity.random_{name}"], config),
            }
            if (found := correlation(words, pooled[name])) is not None:
                result[name]["correlation"] = found
    mean = np.average(words, weights=weights)
    result["constant"] = float(np.average((words - mean) ** 2, weights=weights))
    result["same_position"] = float(np.average(pooled["same"], weights=weights))
    return result


def correlation(first: Float64[np.ndarray, " n"], second: Float64[np.ndarray, " n"]) -> float | None:
    """Pearson's correlation; None where either hardly varies."""
    if len(first) < 2 or min(first.std(), second.std()) < 1e-6:
        return None
    return float(np.corrcoef(first, second)[0, 1])
