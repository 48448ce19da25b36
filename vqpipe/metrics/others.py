"""Another example for each one: what a number is when the prediction and the truth do not belong together."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from vqpipe.errors import DataError
from vqpipe.runtime.seeds import numpy_rng


def other_examples(count: int, seed: int) -> Int64[np.ndarray, " n"]:
    """For each example another one: all are on one cycle, whose order is drawn, as neighbours are often alike.

    Raises:
        DataError: fewer than two examples.
    """
    if count < 2:
        raise DataError("one image alone has no other one", found=f"{count} images", expected="2 or more")
    order = numpy_rng(seed, "other images").permutation(count)
    others = np.empty(count, dtype=np.int64)
    others[order] = np.roll(order, -1)
    return others
