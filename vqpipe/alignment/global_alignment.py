"""InfoNCE between the codes' global token and the frozen text feature.

Paper: LG-VQ, section 3.2.1, equation 5; InfoNCE: van den Oord et al., arXiv 1807.03748. With B pairs, s the cosine and
tau the temperature,

    image to text = - mean_i log( exp(s(v_i, t_i) / tau) / sum_j exp(s(v_i, t_j) / tau) )

The paper uses only this direction, with tau = 1 and the batch of one device. `both` takes the mean with the
direction from text to image. The text has no gradient.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vqpipe.alignment.text import unit
from vqpipe.params.base import Params
from vqpipe.runtime.distributed import gather, own_share, world_size


class FixedTemperature(Params):
    """A temperature that stays."""

    kind: Literal["fixed"]
    value: Annotated[float, Field(gt=0)]
    """1 in the paper."""


class LearnedTemperature(Params):
    """A temperature that is trained with the rest, as in CLIP."""

    kind: Literal["learned"]
    initial: Annotated[float, Field(gt=0)]
    """Where it starts (0.07 in CLIP)."""
    lowest: Annotated[float, Field(gt=0)]
    """It never falls below (0.01 in CLIP)."""

    @model_validator(mode="after")
    def _fits(self) -> LearnedTemperature:
        if self.initial < self.lowest:
            raise ValueError(f"initial {self.initial} is below lowest {self.lowest}")
        return self


TemperatureParams = Annotated[FixedTemperature | LearnedTemperature, Field(discriminator="kind")]


class GlobalParams(Params):
    """Global semantic alignment: InfoNCE of the codes' global token and the caption's feature (equation 5)."""

    weight: Annotated[float, Field(ge=0)]
    """Alpha; 0 leaves the loss out."""
    directions: Literal["image_to_text", "both"]
    """`image_to_text`, the paper's form: each image among the captions of its batch. `both`: the mean of that and of
    each caption among the images."""
    temperature: TemperatureParams
    """Divides the cosines: `{kind: fixed, value: 1.0}` in the paper."""
    gather: bool
    """Whether images are compared with the captions of all ranks, or with those of their own rank (the paper's form);
    the same with one rank. With `training.accumulate` the batch is a micro-batch in both cases."""


class GlobalAlignment(nn.Module):
    """The loss; a learned temperature is its only parameter, stored as a logarithm."""

    def __init__(self, config: GlobalParams) -> None:
        super().__init__()
        self.config = config
        learned = isinstance(config.temperature, LearnedTemperature)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(_start(config)))) if learned else None

    def temperature(self) -> Float[Tensor, ""]:
        """The temperature, with gradient where it is learned and above its lowest."""
        if self.log_temperature is None or not isinstance(self.config.temperature, LearnedTemperature):
            return torch.tensor(_start(self.config))
        return self.log_temperature.clamp_min(math.log(self.config.temperature.lowest)).exp()

    def forward(
        self, image: Float[Tensor, "b e"], text: Float[Tensor, "b e"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss, and the part of the images whose own text is the nearest.

        Args:
            image: global tokens, not normalised; row i belongs to row i of `text`.
            text: text features, not normalised.

        With `gather`, in training, all ranks must call it with as many rows; each then gets the loss of the batch of
        all ranks. Its own rows have a gradient, the others' not: the mean over ranks of the gradients is that of the
        whole batch.
        """
        with torch.autocast(image.device.type, enabled=False):
            image, text = unit(image.float()), unit(text.detach().float())
            if self.config.gather and self.training and world_size() > 1:
                image, text = _of_all_ranks(image), gather(text)
            return info_nce(image, text, self.temperature(), self.config.directions == "both")


def info_nce(
    image: Float[Tensor, "b e"], text: Float[Tensor, "b e"], temperature: Float[Tensor, ""], both: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss of unit vectors (module's text), and the accuracy from image to text."""
    logits = image @ text.T / temperature
    target = torch.arange(len(image), device=image.device)
    loss = cross_entropy(logits, target)
    if both:
        loss = (loss + cross_entropy(logits.T, target)) / 2
    return loss, (logits.detach().argmax(dim=1) == target).float().mean()


def _of_all_ranks(rows: Tensor) -> Tensor:
    """The rows of all ranks, in rank order; this rank's have a gradient, times the number of ranks.

    Every rank computes the whole loss, and the gradients of parameters are averaged over ranks: a rank's own rows
    count once among R such losses, so their gradient is R times as large. What takes part in all R losses with its
    gradient (the temperature) is averaged as it is.
    """
    whole, own = gather(rows), rows.detach() + world_size() * (rows - rows.detach())
    share = own_share(len(whole))
    return torch.cat([whole[: share.start], own, whole[share.stop :]])


def _start(config: GlobalParams) -> float:
    temperature = config.temperature
    return temperature.initial if isinstance(temperature, LearnedTemperature) else temperature.value
