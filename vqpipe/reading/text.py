"""The test images that are read, and one caption for each."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from vqpipe.alignment.text import TextBatch
from vqpipe.data.caption_draw import split_draw
from vqpipe.data.loader import ImageSplit
from vqpipe.errors import DataError
from vqpipe.params.reading import ReadingParams
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.tokenizers.caption_text import CaptionText
from vqpipe.vision.clip import Clip


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


def other_images(count: int, seed: int) -> Int64[np.ndarray, " n"]:
    """For each image another one: all are in one circle, whose order is drawn, as neighbours are often alike."""
    order = numpy_rng(seed, "other images").permutation(count)
    others = np.empty(count, dtype=np.int64)
    others[order] = np.roll(order, -1)
    return others
