"""Which caption of an image a training step reads: one drawn per image and epoch, the same for any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64

from vqpipe.data.loader import ImageSplit
from vqpipe.errors import DataError
from vqpipe.runtime.seeds import numpy_rng


class CaptionDraw:
    """Draws one caption for each image and epoch (LG-VQ, arXiv 2405.14206, draws one at random per image).

    Captions are numbered through the split: image by image, in the order of each. All captions of an image are
    equally likely, and epochs are independent. A draw is a pure function of seed, epoch and image: it depends neither
    on batches nor ranks, and a resumed run needs no state of it.

    Args:
        counts: captions of each image, every one at least 1.
        seed: of the draws; their stream is their own, so that they change no other.

    Raises:
        DataError: images without a caption; the message counts them.
    """

    def __init__(self, counts: Int64[np.ndarray, " n"], seed: int) -> None:
        bare = int((counts == 0).sum())
        if bare:
            raise DataError(
                "there is no caption to draw for some images", found=f"{bare:,} of {len(counts):,} images without one",
                expected="a caption for every image",
            )  # fmt: skip
        self.counts, self.seed = counts, seed
        self.starts: Int64[np.ndarray, " n"] = np.cumsum(counts) - counts
        """The number of each image's first caption."""

    def numbers(self, images: Int64[np.ndarray, " b"], epoch: int) -> Int64[np.ndarray, " b"]:
        """The captions that the images, given by their positions in the split, have in an epoch."""
        chances = _chances(len(self.counts), self.seed, epoch)[images]
        counts = self.counts[images]
        # A chance just below 1 times a count may round up to the count.
        offsets = np.minimum((chances * counts).astype(np.int64), counts - 1)
        return self.starts[images] + offsets


@lru_cache(maxsize=4)
def _chances(num_images: int, seed: int, epoch: int) -> Float64[np.ndarray, " n"]:
    chances = numpy_rng(seed, "captions", epoch).random(num_images)
    chances.setflags(write=False)
    return chances


def epoch_of(step: int, num_items: int, batch_size: int) -> int:
    """The epoch that a step is part of, as `epoch_order` counts them: the last partial batch of each is dropped."""
    return step // (num_items // batch_size)


def check_captioned(
    captions: Sequence[Sequence[str]], ids: Sequence[str], where: str
) -> Int64[np.ndarray, " n"]:
    """The number of captions of each image.

    An image without one is an error and not passed over: variants that are compared must see the same images.

    Args:
        captions: of each image.
        ids: of each image, for the message.
        where: names the images in the message, such as `artifacts/dataset, split train`.

    Raises:
        DataError: no image has a caption, or some have none; the message counts them.
    """
    counts = np.array([len(own) for own in captions], dtype=np.int64)
    bare = np.flatnonzero(counts == 0)
    if len(bare) == 0:
        return counts
    if len(bare) == len(counts):
        raise DataError(
            f"{where} has no captions, and a variant with align reads them",
            found=f"{len(counts):,} images, none with a caption",
            expected="a data set whose images have captions of their own (coco or scenes), or align: null",
        )
    first = ", ".join(ids[at] for at in bare[:3])
    raise DataError(
        f"{where}: images without a caption, and a variant with align draws one for every image",
        found=f"{len(bare):,} of {len(counts):,} images without one ({first}{', …' if len(bare) > 3 else ''})",
        expected="a caption for every image: caption them, leave them out of the source, or set align: null",
        run="dvc repro dataset",
    )


def split_draw(split: ImageSplit, seed: int, where: str) -> CaptionDraw:
    """The draw over a split's captions; `where` and errors as in `check_captioned`."""
    return CaptionDraw(check_captioned(split.captions, split.ids, where), seed)
