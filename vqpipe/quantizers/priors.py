"""What quantizers need of a codebook prior: the words prior, the centroids prior, or none.

The two are read by `vqpipe.text.prior` and `vqpipe.vision.centroids`; here is the part of them that a
quantizer touches, so that anything with these fields will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from vqpipe.errors import MismatchError


@runtime_checkable
class Words(Protocol):
    """Adjectives and nouns, their vectors, and which adjective modifies which noun."""

    @property
    def adjectives(self) -> Sequence[str]:
        """Ka words."""

    @property
    def nouns(self) -> Sequence[str]:
        """Kn words."""

    @property
    def adjective_vectors(self) -> Any:
        """float32 (Ka, d)."""

    @property
    def noun_vectors(self) -> Any:
        """float32 (Kn, d)."""

    @property
    def edges(self) -> Any:
        """int64 (2, E): row 0 indexes adjectives, row 1 nouns."""

    @property
    def weights(self) -> Any:
        """float32 (E,): how often each pair is said."""


@runtime_checkable
class Centroids(Protocol):
    """Cluster centres of patch features; the first K of them are a codebook of K."""

    @property
    def vectors(self) -> Any:
        """float32 (K, d)."""

    @property
    def counts(self) -> Any:
        """int64 (K,)."""


Prior = Words | Centroids | None

_RUN = {"words": "dvc repro graph", "centroids": "dvc repro cluster", "none": None}


def describe(prior: Prior) -> str:
    """A prior in a few words, for messages."""
    if prior is None:
        return "no prior"
    if isinstance(prior, Words):
        return f"a words prior ({len(prior.adjectives)} adjectives, {len(prior.nouns)} nouns)"
    if isinstance(prior, Centroids):
        return f"a centroids prior ({' x '.join(str(n) for n in prior.vectors.shape)})"
    return f"a {type(prior).__name__}"


def need_words(kind: str, prior: Prior) -> Words:
    """The prior as words, or `MismatchError`."""
    if not isinstance(prior, Words):
        raise _wrong(kind, prior, "words")
    return prior


def need_centroids(kind: str, prior: Prior) -> Centroids:
    """The prior as centroids, or `MismatchError`."""
    if not isinstance(prior, Centroids):
        raise _wrong(kind, prior, "centroids")
    return prior


def need_none(kind: str, prior: Prior) -> None:
    """Raise `MismatchError` where a prior is given to a method that would ignore it."""
    if prior is not None:
        raise _wrong(kind, prior, "none")


def _wrong(kind: str, prior: Prior, needed: str) -> MismatchError:
    expected = "no prior" if needed == "none" else f"a {needed} prior"
    return MismatchError(
        f"quantizer {kind} and its prior do not fit",
        found=describe(prior),
        expected=expected,
        run=_RUN[needed],
    )


def float_matrix(values: Any, what: str) -> Tensor:
    """Vectors of a prior as a float32 (K, d) tensor of its own.

    Raises:
        MismatchError: not a matrix, or with values that are not finite.
    """
    tensor = torch.as_tensor(values).detach().to("cpu", torch.float32, copy=True)
    if tensor.ndim != 2 or not tensor.isfinite().all():
        found = f"shape {tuple(tensor.shape)}, {int((~tensor.isfinite()).sum())} values not finite"
        raise MismatchError(
            f"the prior's {what} cannot serve as vectors", found=found, expected="finite, (K, d)"
        )
    return tensor
