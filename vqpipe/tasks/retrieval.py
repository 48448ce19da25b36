"""Retrieval: which caption belongs to an image's codes, and which image to a caption.

From an image, the candidates are the different texts, and its own is right; from a caption, the candidates are the
images, and all whose drawn caption has an equal text are right. Texts are equal where their tokens are.

Letters: n images, q queries, c candidates, e width of the global text features.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from vqpipe.alignment.aligner import Aligner, AlignParams, TextBatch
from vqpipe.alignment.losses import GlobalParams
from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.specs.task import RETRIEVAL_PICTURES
from vqpipe.errors import DataError
from vqpipe.metrics.measured import Interval
from vqpipe.runtime.preflight import need_memory
from vqpipe.tasks.caption_tasks import (
    CaptionHeadMetrics,
    CaptionTask,
    CaptionTaskMetrics,
    CaptionTaskParams,
    TestCaptions,
    caption_row,
    facts_of,
    text_of,
)
from vqpipe.tasks.inputs import FrozenInputs
from vqpipe.tasks.task import Album, Examples, HeadResult, Row

RANKS = (1, 5, 10)
DIRECTIONS = ("image_to_text", "text_to_image")
SCORE_BYTES = 12
"""Memory per pair of an image and a caption: the cosines, twice while they are put in order, and a view."""
QUERIES = 1024
"""Queries that are ranked at once."""


class RetrievalParams(CaptionTaskParams):
    """InfoNCE between a global token over frozen codes and the caption's CLIP feature."""

    kind: Literal["retrieval"]
    """The task."""
    contrastive: GlobalParams
    """The loss (LG-VQ, equation 5). The weight scales the only loss."""
    num_candidates: Annotated[int, Field(ge=1)]
    """Best captions of an image, and best images of a caption, that are kept in the pictures."""

    def align(self) -> AlignParams:
        """The head with its loss, as an aligner has them."""
        return self._align(contrastive=self.contrastive)


class DirectionMetrics(Metrics):
    """Recall at k of one direction, in [0, 1]; equal scores count in random order (`recalls`)."""

    num_queries: int
    """Images, or captions."""
    num_candidates: int
    """Different texts, or images."""
    r1: Interval
    """Share of the queries with a right candidate ranked first; higher is better."""
    r5: Interval
    """Among the first 5."""
    r10: Interval
    """Among the first 10."""
    chance_r1: float
    """`r1` of a random order."""
    chance_r5: float
    """`r5` of a random order."""
    chance_r10: float
    """`r10` of a random order."""


class RetrievalMetrics(CaptionHeadMetrics):
    """A head's retrieval in both directions."""

    image_to_text: DirectionMetrics
    """From an image to its caption."""
    text_to_image: DirectionMetrics
    """From a caption to its image."""


@dataclass(frozen=True)
class Scores:
    """What all queries and candidates score."""

    cosines: Float[Tensor, "n n"]
    """Of image i's global token and caption j's feature, on the CPU."""
    texts: Int64[np.ndarray, " n"]
    """The number of each caption's text: equal for equal ones, in the order of their first occurrence."""


class Retrieval(CaptionTask):
    """The task: cosines of global tokens and the frozen text encoder's global features."""

    kind = "retrieval"
    question = "which caption belongs to which image"
    Params = RetrievalParams
    Metrics = CaptionTaskMetrics[RetrievalMetrics]
    protocol = 2
    picture_spec = RETRIEVAL_PICTURES
    config: RetrievalParams

    def check(self, test: TestCaptions, text: TextBatch) -> None:
        need_memory(SCORE_BYTES * len(test) ** 2, f"retrieval among {len(test):,} images and their captions")

    def fits(self, aligner: Aligner) -> bool:
        return aligner.global_alignment is not None

    def measure(self, head: nn.Module, inputs: FrozenInputs, test: Examples, train: Examples) -> HeadResult:
        model, text = text_of(head, test)
        seen = (quantized for _, quantized in self.batches(inputs))
        features = torch.cat([model.code_transformer(quantized.z_q).feature.cpu() for quantized in seen])
        scores = Scores(_cosines(inputs, features, text.features), text_numbers(text))
        values: dict[str, Float64[np.ndarray, " n"]] = {}
        found = {direction: self._direction(direction, scores, values) for direction in DIRECTIONS}
        return HeadResult(RetrievalMetrics(**facts_of(head, test), **found), values, scores)  # type: ignore[arg-type]

    def _direction(self, direction: str, scores: Scores, values: dict[str, np.ndarray]) -> DirectionMetrics:
        """Recalls and chance, with one query per image or caption; each query's go to `values`."""
        number, cosines = torch.from_numpy(scores.texts), scores.cosines
        candidates = number
        if direction == "image_to_text":
            first = torch.from_numpy(np.unique(scores.texts, return_index=True)[1])
            cosines, candidates = cosines[:, first], number[first]
        else:
            cosines = cosines.T
        parts: dict[str, list[np.ndarray]] = {}
        for at in range(0, len(cosines), QUERIES):
            own = cosines[at : at + QUERIES]
            right = number[at : at + QUERIES, None] == candidates
            for rank in RANKS:
                parts.setdefault(f"r{rank}", []).append(recalls(own, right, rank))
                parts.setdefault(f"chance_r{rank}", []).append(chances(right, rank))
        result: dict[str, Any] = {"num_queries": len(cosines), "num_candidates": len(candidates)}
        for rank in RANKS:
            values[f"{direction}.r{rank}"] = np.concatenate(parts[f"r{rank}"])
            result[f"r{rank}"] = self.config.interval(values[f"{direction}.r{rank}"])
            result[f"chance_r{rank}"] = float(np.concatenate(parts[f"chance_r{rank}"]).mean())
        return DirectionMetrics(**result)

    def pictures(
        self, head: nn.Module, result: HeadResult, inputs: FrozenInputs, test: Examples, album: Album
    ) -> list[Row]:
        assert isinstance(test, TestCaptions)
        scores, count, rows = result.kept, self.config.num_candidates, []
        first = np.unique(scores.texts, return_index=True)[1]
        for row in self.shown(test):
            of_image, of_text = scores.cosines[row], scores.cosines[:, row]
            texts = first[_best(of_image[torch.from_numpy(first)], count)].tolist()
            images = _best(of_text, count).tolist()
            for direction, chosen, own in zip(DIRECTIONS, (texts, images), (of_image, of_text), strict=True):
                of_images = direction == "text_to_image"
                rows.append({
                    **caption_row(test, album, row), "direction": direction,
                    "captions": [test.captions[other] for other in chosen],
                    "image_ids": [test.ids[other] for other in chosen] if of_images else [],
                    "pictures": [album.picture(other) for other in chosen] if of_images else [],
                    "scores": [float(own[other]) for other in chosen],
                    "right": [bool(scores.texts[other] == scores.texts[row]) for other in chosen],
                })  # fmt: skip
        return rows


def text_numbers(text: TextBatch) -> Int64[np.ndarray, " n"]:
    """A number for each caption, equal for equal tokens, in the order of their first occurrence."""
    numbers: dict[tuple[int, ...], int] = {}
    rows = text.tokens.masked_fill(~text.real(), -1).tolist()
    return np.array([numbers.setdefault(tuple(row), len(numbers)) for row in rows], dtype=np.int64)


def _cosines(
    inputs: FrozenInputs, images: Float[Tensor, "n e"], texts: Float[Tensor, "n e"]
) -> Float[Tensor, "n n"]:
    """Cosines; images of equal codes have equal ones to the last bit, so that they tie."""
    if not bool(images.isfinite().all()):
        raise DataError(
            "the codes' global tokens are not finite", expected="a tokenizer and a head with finite weights"
        )
    codes = inputs.rows(np.arange(len(inputs))).flatten(1).numpy()
    _, first, again = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    image, text = normalize(images.float(), dim=1), normalize(texts.float(), dim=1)
    return (image[torch.from_numpy(first)] @ text.T)[torch.from_numpy(again.reshape(-1))]


def _best(scores: Tensor, count: int) -> Int64[np.ndarray, " k"]:
    """The best candidates; the earlier of equal ones first."""
    return np.asarray(scores.argsort(descending=True, stable=True)[:count])


def recalls(scores: Float[Tensor, "q c"], right: Bool[Tensor, "q c"], rank: int) -> Float64[np.ndarray, " q"]:
    """For each query the probability of a right candidate among the `rank` best, equal scores in random order.

    Without ties it is 0 or 1. With the best right candidate's score s, a wrong candidates above it, and t of score s
    of which r are right, it is 1 - C(t - r, m) / C(t, m) with m = rank - a, and 0 for m <= 0. A query without a right
    candidate has 0. So a codebook that has collapsed, with equal scores for all, gets chance and no more.
    """
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    above = (scores > best).sum(dim=1).tolist()
    tied = (scores == best).sum(dim=1).tolist()
    good = ((scores == best) & right).sum(dim=1).tolist()
    return np.array(
        [_hit(t, g, rank - a) for a, t, g in zip(above, tied, good, strict=True)], dtype=np.float64
    )


def chances(right: Bool[Tensor, "q c"], rank: int) -> Float64[np.ndarray, " q"]:
    """For each query the probability of a right candidate among the first `rank` of a random order."""
    total = right.shape[1]
    return np.array([_hit(total, p, rank) for p in right.sum(dim=1).tolist()], dtype=np.float64)


def _hit(total: int, good: int, drawn: int) -> float:
    """The probability of at least one good one among `drawn` of `total` without replacement."""
    if drawn <= 0 or good <= 0:
        return 0.0
    drawn = min(drawn, total)
    return 1.0 - comb(total - good, drawn) / comb(total, drawn)
