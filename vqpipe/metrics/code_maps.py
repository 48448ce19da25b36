"""Orders and maps of codes for the eye: leaves of a clustering, and t-SNE. They need scikit-learn.

The package is imported in the functions, because nothing that trains needs it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int64

from vqpipe.errors import SetupError

MIN_PROJECTED = 50
"""Fewer points than this show no neighbourhoods."""
PERPLEXITY, ITERATIONS = 30.0, 500


def cluster_order(cosine: Float64[np.ndarray, "m m"]) -> Int64[np.ndarray, " m"]:
    """An order of codes in which similar ones stand together: the leaves of an average-linkage clustering of
    1 - cosine.

    Raises:
        SetupError: scikit-learn (which brings SciPy) is not installed.
    """
    if len(cosine) < 3:
        return np.arange(len(cosine))
    try:
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform
    except ImportError as error:
        raise _missing(error) from error
    distance = np.maximum(1.0 - (cosine + cosine.T) / 2, 0.0)
    np.fill_diagonal(distance, 0.0)
    return np.asarray(leaves_list(linkage(squareform(distance, checks=False), "average")), dtype=np.int64)


def too_few_to_project(count: int) -> str | None:
    """Why t-SNE is left out for so few codes, or None."""
    return f"{count} codes are too few for t-SNE, it needs {MIN_PROJECTED}" if count < MIN_PROJECTED else None


def project(vectors: Float[np.ndarray, "n d"], seed: int) -> Float64[np.ndarray, "n 2"]:
    """t-SNE of code vectors in the plane: principal components as the start, perplexity 30 (less for few points),
    500 iterations, on one thread, so that equal codes and seed give equal maps.

    The axes have no unit, and distances between far groups mean nothing. (van der Maaten and Hinton, JMLR 2008;
    the start after Kobak and Linderman, Nature Biotechnology 2021.)

    Raises:
        SetupError: scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise _missing(error) from error
    rows = np.asarray(vectors, dtype=np.float32)
    with threadpool_limits(1):
        start = _principal(rows)
        perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
        model = TSNE(2, perplexity=perplexity, init=start, random_state=seed, max_iter=ITERATIONS, n_jobs=1)
        return np.asarray(model.fit_transform(rows), dtype=np.float64)


def _principal(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """The first two principal components, each sign fixed by its largest loading, scaled to a spread of 1e-4."""
    centred = rows.astype(np.float64) - rows.astype(np.float64).mean(0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    top = directions[:, ::-1][:, :2]
    top = top * np.sign(top[np.abs(top).argmax(0), np.arange(top.shape[1])])
    plane = np.zeros((len(rows), 2))
    plane[:, : top.shape[1]] = centred @ top
    spread = plane[:, 0].std()
    return (plane / (spread if spread > 0 else 1.0) * 1e-4).astype(np.float32)


def _missing(error: ImportError) -> SetupError:
    return SetupError(f"the map of codes needs a package: {error.name}", run="pip install scikit-learn")
