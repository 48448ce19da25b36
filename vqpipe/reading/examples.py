"""The tables behind a reading's pictures: masked words, retrieval, and the words' heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from vqpipe.alignment.aligner import Aligner
from vqpipe.alignment.text import TextBatch
from vqpipe.data.images import encode_png
from vqpipe.params.reading import ReadingParams
from vqpipe.reading.frozen_codes import FrozenCodes
from vqpipe.reading.summary import Measured
from vqpipe.reading.text import DrawnText
from vqpipe.reading.words import Word, best_words
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.vision.byte_pairs import tokenizer as byte_pairs

BLANK = "____"
"""What stands for a masked word."""

Row = dict[str, Any]


def draw_examples(total: int, config: ReadingParams) -> list[int]:
    """The images that are shown, rising; the same for every tokenizer."""
    count = min(config.examples.num_images, total)
    return sorted(numpy_rng(config.seed, "examples").choice(total, count, replace=False).tolist())


def spelled(word: Word) -> str:
    """A word's text from its byte-pair ids."""
    return str(byte_pairs().decode(list(word))).strip()


def caption_words(text: TextBatch, row: int) -> list[Word]:
    """A caption's words, in order."""
    words: dict[int, list[int]] = {}
    for number, token in zip(text.words[row].tolist(), text.tokens[row].tolist(), strict=True):
        if number >= 0:
            words.setdefault(number, []).append(token)
    return [tuple(word) for word in words.values()]


class Album:
    """Test images as PNG, each read once.

    Args:
        drawn: the test images that are read.
    """

    def __init__(self, drawn: DrawnText) -> None:
        self.drawn = drawn
        self._known: dict[int, bytes] = {}

    def picture(self, image: int) -> bytes:
        """One image, by its number among those that are read."""
        if image not in self._known:
            pixels = self.drawn.split.gather([int(self.drawn.positions[image])], None, "centre", False)[0]
            self._known[image] = encode_png(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
        return self._known[image]

    def row(self, reader: str, image: int) -> Row:
        """The columns that every table has."""
        drawn = self.drawn
        return {
            "reader": reader, "image_id": drawn.ids[image], "picture": self.picture(image),
            "caption": drawn.captions[image],
        }  # fmt: skip


def masked_rows(
    reader: str, measured: Measured, aligner: Aligner, text: TextBatch, album: Album, count: int
) -> list[Row]:
    """Masked words of the example images with their `count` best predictions; see `READING_MASKED`."""
    ids, rows = aligner.vocabulary.ids.cpu(), []
    for number, images in sorted(measured.masks.items()):
        for image, masked in sorted(images.items()):
            best = [best_words(logits, ids, count) for logits in masked.logits]
            shown = [
                BLANK if at in masked.numbers else spelled(word)
                for at, word in enumerate(caption_words(text, image))
            ]
            rows.append({
                **album.row(reader, image), "count": number, "masked": " ".join(shown),
                "words": [spelled(word) for word in masked.words],
                "predictions": [[spelled(word) for word, _ in own] for own in best],
                "chances": [[chance for _, chance in own] for own in best],
                "right": [own[0][0] == word for own, word in zip(best, masked.words, strict=True)],
            })  # fmt: skip
    return rows


def retrieval_rows(
    reader: str, measured: Measured, album: Album, examples: Sequence[int], count: int
) -> list[Row]:
    """The `count` best candidates of the example images and their captions; see `READING_RETRIEVAL`."""
    if measured.scores is None:
        return []
    first = np.unique(measured.texts, return_index=True)[1]
    rows = []
    for image in examples:
        of_image, of_text = measured.scores[image], measured.scores[:, image]
        texts = first[_best(of_image[torch.from_numpy(first)], count)].tolist()
        images = _best(of_text, count).tolist()
        for direction, chosen, scores in (
            ("image_to_text", texts, of_image),
            ("text_to_image", images, of_text),
        ):
            of_images = direction == "text_to_image"
            rows.append({
                **album.row(reader, image), "direction": direction,
                "captions": [album.drawn.captions[other] for other in chosen],
                "image_ids": [album.drawn.ids[other] for other in chosen] if of_images else [],
                "pictures": [album.picture(other) for other in chosen] if of_images else [],
                "scores": [float(scores[other]) for other in chosen],
                "right": [bool(measured.texts[other] == measured.texts[image]) for other in chosen],
            })  # fmt: skip
    return rows


def similarity_rows(
    reader: str, measured: Measured, codes: FrozenCodes, text: TextBatch, album: Album
) -> list[Row]:
    """The relations of the example images' words; see `READING_SIMILARITY`."""
    rows = []
    for images, found in measured.relations:
        for at, image in enumerate(images.tolist()):
            words = caption_words(text, image)
            s = len(words)
            flat = codes.rows([image])[0].flatten(1)
            positions = found.positions[at, :s]
            projected = found.codes.get("projected")
            rows.append({
                **album.row(reader, image), "words": [spelled(word) for word in words],
                "positions": positions.tolist(), "codes": flat[:, positions].T.tolist(),
                "word_cosines": _square(found.words[at], s), "code_cosines": _square(found.codes["raw"][at], s),
                "projected_cosines": None if projected is None else _square(projected[at], s),
            })  # fmt: skip
    return rows


def per_image_rows(reader: str, measured: Measured, ids: Sequence[str]) -> list[Row]:
    """Each measure's values, of the images that have one; see `READING_PER_IMAGE`."""
    return [
        {"reader": reader, "measure": name, "image_id": ids[at], "value": float(values[at])}
        for name, values in sorted(measured.per_image.items())
        for at in np.flatnonzero(np.isfinite(values)).tolist()
    ]


def _best(scores: Tensor, count: int) -> Int64[np.ndarray, " k"]:
    """The best candidates; the earlier of equal ones first."""
    return np.asarray(scores.argsort(descending=True, stable=True)[:count])


def _square(cosines: Tensor, s: int) -> list[list[float]]:
    return [[float(value) for value in row] for row in cosines[:s, :s].tolist()]
