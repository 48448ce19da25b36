"""What quantizers ask of a codebook prior: the right kind, with finite vectors, kept frozen or trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from vqpipe.codebooks.centroids import Centroids
from vqpipe.codebooks.load import Prior
from vqpipe.codebooks.words import Words
from vqpipe.errors import MismatchError
from vqpipe.quantizers.contract import Names, QuantizerModule

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


class WithoutPrior(QuantizerModule):
    """What the methods share that start from no prior: their params, the constructor's one argument, say every shape.

    It comes before a method's other bases.
    """

    @classmethod
    def from_prior(cls, config: Any, prior: Prior) -> Self:
        """See `QuantizerModule.from_prior`; takes no prior.

        Raises:
            MismatchError: a prior, which the method would ignore.
        """
        need_none(cls.kind, prior)
        return cls(config)

    @classmethod
    def skeleton(cls, config: Any, tensors: Mapping[str, Tensor], names: Names | None) -> Self:
        """See `QuantizerModule.skeleton`; the params say every shape."""
        return cls(config)


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


def keep(module: nn.Module, name: str, vectors: Tensor, trained: bool) -> None:
    """Register a prior's vectors: as a parameter where they are trained, else as a buffer."""
    if trained:
        module.register_parameter(name, nn.Parameter(vectors))
    else:
        module.register_buffer(name, vectors)
