"""The images below any folder as squares of one side, and what is no image with the dataset stage's reasons."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vqpipe.data.adapters.base import read_image
from vqpipe.data.images import SUFFIXES, centre_square
from vqpipe.data.records import Bad
from vqpipe.data.walk import images_below
from vqpipe.errors import DataError, printable
from vqpipe.runtime.shards import map_shards

LAYOUT = "images at any depth, whose names end in " + " ".join(SUFFIXES)
MAX_PIXELS = 100_000_000
"""Larger images are not decoded."""
CHUNK_ITEMS = 16
"""Images that a worker decodes at a time."""

Square = tuple[str, UInt8[np.ndarray, "r r 3"]]
"""An image's id, which is its path below the folder, and its pixels."""


def squares(root: Path, side: int) -> Iterator[Square | Bad]:
    """Every file below `root`, at any depth: an image, or why it is left out.

    Which files there are, and in which order, `vqpipe.data.walk` says. Images are decoded by `VQPIPE_WORKERS`
    processes, a bounded number at a time.

    Args:
        root: the folder.
        side: images are scaled and cut by `vqpipe.data.images.centre_square`.

    Raises:
        DataError: `root` is no folder.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", expected="a folder of images")
    names = images_below(root)
    chunks = iter(lambda: tuple(islice(names, CHUNK_ITEMS)), ())
    for found in map_shards(partial(_load, root, side), chunks):
        yield from found


def _load(root: Path, side: int, chunk: tuple[str | Bad, ...]) -> list[Square | Bad]:
    done: list[Square | Bad] = []
    for name in chunk:
        if isinstance(name, Bad):
            done.append(name)
            continue
        image_id = printable(name)
        image = read_image(image_id, root / name, MAX_PIXELS, root)
        done.append(image if isinstance(image, Bad) else (image_id, centre_square(image, side)))
    return done
