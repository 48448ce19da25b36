"""A training batch with captions."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vqpipe.alignment.text import TextBatch


@dataclass(frozen=True)
class Captioned:
    """A batch of images and the caption that was drawn for each."""

    images: Float[Tensor, "b 3 h w"]
    """In [-1, 1]."""
    text: TextBatch


def images_of(batch: Float[Tensor, "b 3 h w"] | Captioned) -> Float[Tensor, "b 3 h w"]:
    """The images of a batch with or without captions."""
    return batch.images if isinstance(batch, Captioned) else batch
