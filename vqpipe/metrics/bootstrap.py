"""Means with 95 % intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from vqpipe.errors import DataError
from vqpipe.runtime.seeds import numpy_rng

CHUNK = 1 << 22
"""Draws held in memory at once."""


def mean_interval(values: Float64[np.ndarray, " n"], num_bootstrap: int, seed: int) -> dict[str, float]:
    """The mean and its percentile-bootstrap 95 % interval (Efron 1979): `{"mean", "low", "high"}`.

    Images are resampled with replacement `num_bootstrap` times; `low` and `high` are the 2.5th and 97.5th
    percentiles of the resampled means. The draws depend on `seed`, `n` and `num_bootstrap` alone, so
    intervals of two measures of the same images rest on the same resamples.

    Raises:
        DataError: no values, or values that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise DataError("a mean needs at least one value, all finite", found=f"{values.size} values")
    rng = numpy_rng(seed, "bootstrap", values.size)
    means = np.empty(num_bootstrap)
    step = max(1, CHUNK // values.size)
    for start in range(0, num_bootstrap, step):
        stop = min(start + step, num_bootstrap)
        means[start:stop] = values[rng.integers(0, values.size, (stop - start, values.size))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def summarise(
    table: Mapping[str, Float64[np.ndarray, " n"]], num_bootstrap: int, seed: int
) -> dict[str, dict[str, float]]:
    """`mean_interval` of every column."""
    return {name: mean_interval(values, num_bootstrap, seed) for name, values in table.items()}
