"""What the cards of both kinds of prior are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

QUANTILES = {"smallest": 0.0, "quarter": 0.25, "median": 0.5, "three quarters": 0.75, "largest": 1.0}


@dataclass(frozen=True)
class CardParts:
    """The parts of a card that depend on the kind of prior, as lines of Markdown."""

    about: list[str]
    statistics: list[str]
    loading: list[str]
    """Python."""
    licences: list[str]
    limitations: list[str]


def spread(values: Float[Tensor, " n"]) -> list[float]:
    """The values of `QUANTILES`, by sorting: exact, and without a limit on how many there are."""
    ordered = values.double().sort().values
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in QUANTILES.values()]


def norms(vectors: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Euclidean norms, float64."""
    return torch.linalg.vector_norm(vectors.double(), dim=1)


def clip_licence(clip_id: str, made: str) -> str:
    """What to check about the CLIP that made vectors."""
    if ":fitted:" in clip_id:
        return (
            f"**CLIP.** `{clip_id}` was fitted by vqpipe to the captions and images of its data set; what that data "
            f"set's terms say of models trained on it holds for {made}."
        )
    return (
        f"**CLIP.** {made[0].upper()}{made[1:]} come from the weights `{clip_id}`. Read the licence and the model card "
        "of these weights: some exclude commercial or deployed use, and the data they were trained on has terms too."
    )
