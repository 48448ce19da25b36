"""What an aligner reads from the codes of test images: masked words, retrieval, and the words' relations.

Everything is deterministic: images, captions, masked words and drawn positions come from the params' seed, the same for
every tokenizer, so that values of one image can be compared between tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from vqpipe.alignment.aligner import Aligner
from vqpipe.alignment.text import TextBatch
from vqpipe.data.caption_draw import split_draw
from vqpipe.data.loader import ImageSplit
from vqpipe.engine.batches import over_tensors
from vqpipe.errors import DataError
from vqpipe.metrics.bootstrap import mean_interval
from vqpipe.params.reading import ReadingParams
from vqpipe.runtime.progress import track
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.tokenizers.caption_text import CaptionText
from vqpipe.tokenizers.frozen_codes import FrozenCodes
from vqpipe.tokenizers.reading_retrieval import chances, recalls
from vqpipe.tokenizers.reading_words import (
    MAX_WORDS,
    Word,
    WordRelations,
    draw_masks,
    masked_logits,
    masked_words,
    relate,
    word_recall,
)
from vqpipe.vision.clip import Clip

RANKS = (1, 5, 10)
QUERIES = 1024
"""Queries that are ranked at once."""

Interval = dict[str, float]


class DrawnText:
    """One caption for each test image that is read.

    Args:
        split: the test split.
        config: the reading's params.
        where: names the split in messages.

    Raises:
        DataError: images without a caption, or fewer than two images.
    """

    def __init__(self, split: ImageSplit, config: ReadingParams, where: str) -> None:
        draw = split_draw(split, config.seed, where)
        total, count = len(split), config.num_images
        if total < 2:
            raise DataError(
                "there is nothing to tell apart", found=f"{total} images in {where}", expected="2 or more"
            )
        self.split = split
        self.positions: Int64[np.ndarray, " n"] = np.arange(total)
        """The images, in the split's order."""
        if count is not None and count < total:
            self.positions = np.sort(numpy_rng(config.seed, "images").choice(total, count, replace=False))
        numbers = draw.numbers(self.positions, 0) - draw.starts[self.positions]
        self.captions = [
            split.captions[p][n] for p, n in zip(self.positions.tolist(), numbers.tolist(), strict=True)
        ]
        self.ids = [split.ids[p] for p in self.positions.tolist()]

    def __len__(self) -> int:
        return len(self.positions)

    def encoded(self, clip: Clip, max_tokens: int) -> TextBatch:
        """All captions as an aligner takes them, on the CPU; errors as `CaptionText`."""
        text = CaptionText([[caption] for caption in self.captions], clip, max_tokens)
        return text.batch(np.arange(len(self)))


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
class _Pass:
    """What is gathered over the batches."""

    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    features: list[Tensor] = field(default_factory=list)
    cosines: dict[str, list[np.ndarray]] = field(default_factory=dict)
    relations: list[tuple[np.ndarray, WordRelations]] = field(default_factory=list)
    masks: dict[int, dict[int, MaskedExample]] = field(default_factory=dict)

    def add(self, name: str, values: np.ndarray) -> None:
        self.values.setdefault(name, []).append(values)


@torch.no_grad()
def measure_reading(
    aligner: Aligner,
    codes: FrozenCodes,
    text: TextBatch,
    config: ReadingParams,
    commonest: Mapping[int, Word],
    examples: Sequence[int] = (),
) -> Measured:
    """Measure an aligner on test images.

    Masked words: of each caption with as many words as are masked (others are left out and counted), `recall` is the
    part of them whose first prediction is right, all byte-pair pieces together. Beside it: `other_image`, the same
    words predicted with the codes of another image that is drawn, which is what the caption alone says; `commonest`, the training
    captions' most frequent word of as many pieces; `chance`, pieces drawn evenly from the vocabulary.

    Retrieval: cosines of global tokens and frozen text features. From an image, the candidates are the different texts
    and its own is right; from a caption, the candidates are the images and all that drew an equal text are right. Texts
    are equal where their tokens are. Equal scores, such as those of images with
    the same codes, count in random order (`recalls`). Chance is a random order.

    Relations (Table 4): the squared differences of the cosines of words and those of their codes, a mean over a
    caption's pairs and then over captions with two words. `chance` has positions drawn evenly for the words. What
    codes of one cosine all over would get at best is `constant`; `correlation` is that of the cosines over all pairs
    (left out where either does not vary), and `same_position` the part of the pairs that one position stands for.

    Args:
        aligner: in eval mode, on the device of the codes' tokenizer.
        codes: of the test images.
        text: their captions, on the CPU.
        config: seed, counts, batch size and bootstrap.
        commonest: the training captions' most frequent word by its number of pieces.
        examples: images of which more is kept.

    Returns:
        The metrics: for each masked count `masked_K`, then `image_to_text`, `text_to_image`, `similarity`; those that
        the aligner has no head for are left out. Means over images are `{mean, low, high}`.

    Raises:
        DataError: features that are not finite, or no caption with as many words as are to be masked.
    """
    device = aligner.vocabulary.embeddings.device
    masks = {count: draw_masks(text.words, count, config.seed) for count in config.masked_counts}
    positions = int(np.prod(codes.indices.shape[2:]))
    drawn = torch.from_numpy(
        numpy_rng(config.seed, "positions").integers(0, positions, (len(codes), MAX_WORDS))
    )
    others = other_images(len(codes), config.seed)
    seen, kept = _Pass(), set(examples)
    for at in track(range(0, len(codes), config.batch_size), "read"):
        rows = np.arange(at, min(at + config.batch_size, len(codes)))
        quantized = codes.quantized(codes.rows(rows).to(device))
        chosen = over_tensors(text, _rows_on(rows, device))
        batch = aligner.checked(chosen)
        encoded = aligner.code_transformer(quantized.z_q)
        seen.features.append(encoded.feature.cpu())
        if aligner.masked_text is not None:
            exchanged = codes.quantized(codes.rows(others[rows]).to(device))
            foreign = aligner.code_transformer(exchanged.z_q)
            for count, mask in masks.items():
                masked = mask[rows][:, : batch.tokens.shape[1]].to(device)
                targets = batch.tokens[masked]
                for name, source in (("recall", encoded), ("other_image", foreign)):
                    logits = masked_logits(aligner, batch, source, masked)
                    right = torch.zeros_like(masked)
                    right[masked] = aligner.vocabulary.ids[logits.argmax(dim=1)] == targets
                    seen.add(f"masked_{count}.{name}", word_recall(right, masked, batch.words))
                    if name == "recall":
                        _keep_mask(seen, count, rows, kept, batch, masked, logits)
                words = [masked_words(batch, masked, row) for row in range(len(rows))]
                seen.add(
                    f"masked_{count}.commonest", _share(words, lambda w: float(commonest.get(len(w)) == w))
                )
                seen.add(f"masked_{count}.chance", _share(words, _drawn_evenly(len(aligner.vocabulary))))
        if quantized.vectors:
            found = relate(aligner, quantized, encoded, batch, drawn[rows].to(device))
            _add_relations(seen, found)
            own = [row for row in range(len(rows)) if int(rows[row]) in kept]
            if own:
                seen.relations.append(
                    (rows[own], over_tensors(found, _rows_on(np.array(own), torch.device("cpu"))))
                )
    return _summary(aligner, codes, text, config, seen)


def other_images(count: int, seed: int) -> Int64[np.ndarray, " n"]:
    """For each image another one: all are in one circle, whose order is drawn. Neighbours in a split are often alike."""
    order = numpy_rng(seed, "other images").permutation(count)
    others = np.empty(count, dtype=np.int64)
    others[order] = np.roll(order, -1)
    return others


def _rows_on(rows: Int64[np.ndarray, " b"], device: torch.device) -> Callable[[Tensor], Tensor]:
    return lambda part: part[torch.from_numpy(rows).to(part.device)].to(device)


def _drawn_evenly(num_tokens: int) -> Callable[[Word], float]:
    return lambda word: float(num_tokens) ** -len(word)


def _share(words: Sequence[Sequence[Word]], value: Callable[[Word], float]) -> Float64[np.ndarray, " b"]:
    """The mean of a value over each caption's words; NaN for none."""
    return np.array([np.mean([value(word) for word in own]) if own else np.nan for own in words])


def _keep_mask(
    seen: _Pass,
    count: int,
    rows: Int64[np.ndarray, " b"],
    kept: set[int],
    batch: TextBatch,
    masked: Tensor,
    logits: Tensor,
) -> None:
    ends = np.cumsum(masked.sum(dim=1).cpu().numpy())
    for row, image in enumerate(rows.tolist()):
        words = masked_words(batch, masked, row)
        if image in kept and words:
            own = logits[ends[row] - int(masked[row].sum()) : ends[row]].cpu()
            numbers = tuple(sorted(set(batch.words[row][masked[row]].tolist())))
            parts = list(torch.split(own, [len(word) for word in words]))
            seen.masks.setdefault(count, {})[image] = MaskedExample(numbers, words, parts)


def _add_relations(seen: _Pass, found: WordRelations) -> None:
    for name in found.codes:
        seen.add(f"similarity.{name}", found.errors(name))
        seen.cosines.setdefault(name, []).append(found.codes[name][found.pairs].double().cpu().numpy())
    seen.cosines.setdefault("words", []).append(found.words[found.pairs].double().cpu().numpy())
    weights = (1.0 / found.pairs.sum(dim=(1, 2)).double())[:, None, None].expand(found.pairs.shape)
    seen.cosines.setdefault("weights", []).append(weights[found.pairs].cpu().numpy())
    same = found.positions[:, :, None] == found.positions[:, None, :]
    seen.cosines.setdefault("same", []).append(same[found.pairs].double().cpu().numpy())


def _summary(
    aligner: Aligner, codes: FrozenCodes, text: TextBatch, config: ReadingParams, seen: _Pass
) -> Measured:
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
    if not has.any():
        raise DataError(
            f"no test caption has {count} words that could be masked",
            found=f"{len(has)} captions",
            expected="smaller read.common.masked_counts",
        )
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
    per_image: dict[str, np.ndarray], seen: _Pass, config: ReadingParams
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
