"""What every prior is: its params, the image space that it models, the conditions that it takes, and its base class.

A prior is one file with a `Params` model and a subclass of `Prior`, and one line in `vqpipe.priors.PRIORS`.

Letters: b or n images, g groups of codes, h w the token grid, c channels of the latent, l text tokens, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int64
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from vqpipe.errors import MismatchError
from vqpipe.metrics.distances import DistanceParams
from vqpipe.models.transformer import decay_groups
from vqpipe.params.base import Params
from vqpipe.params.names import Name
from vqpipe.training.objective import TrainingParams

ConditionKind = Literal["none", "class", "text", "label_map"]
"""What the params can ask for. Known tokens are not a kind: a prior that takes them takes them with every kind."""
PARTS: dict[ConditionKind, tuple[str, ...]] = {
    "none": (), "class": ("labels",), "text": ("text", "text_ids"), "label_map": ("label_map",),
}  # fmt: skip
"""The parts of a `Condition` that each kind permits."""
NO_LABEL = -1
"""The label of an image that has none."""
UNKNOWN = -1
"""In `Condition.tokens`: a code to draw."""


class SamplingParams(Params):
    """How samples are drawn; each prior adds its own fields."""

    guidance: Annotated[float, Field(ge=0)]
    """Classifier-free guidance scale s: prediction = u + s (c - u). 1 is none, 0 ignores the condition."""


class PriorParams(Params):
    """The params that all priors share. A pair is `prior.common`, its block of the kind and the pair's own."""

    kind: str
    """The kind of prior."""
    tokenizer: Name
    """The tokenizer variant whose tokens or latents it models."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of weights, batches, dropout and samples."""
    condition: ConditionKind
    """What the prior is given: nothing, the image's class label, its text, or its label map."""
    label_drop: Annotated[float, Field(ge=0, lt=1)]
    """Part of the conditions that training replaces by the null condition; guidance other than 1 needs some."""
    training: TrainingParams
    """Optimiser, schedule, averaging and checkpoints."""
    sampling: SamplingParams
    """How the samples of the metrics and of the grid are drawn."""
    num_samples: Annotated[int, Field(ge=16)]
    """Samples measured against equally many test images, or as many as the test split has."""
    distances: DistanceParams
    """The features and subsets of the distances between samples and test images."""

    @field_validator("condition")
    @classmethod
    def _taken(cls, value: ConditionKind, info: ValidationInfo) -> ConditionKind:
        from vqpipe.priors import PRIORS

        kind = str(info.data.get("kind"))
        if kind in PRIORS and value not in PRIORS[kind].conditions:
            choices = ", ".join(PRIORS[kind].conditions)
            raise ValueError(f"the prior {kind} does not take this condition; choices: {choices}")
        return value

    @model_validator(mode="after")
    def _guidance_needs_drop(self) -> Self:
        if self.sampling.guidance != 1 and (self.condition == "none" or self.label_drop == 0):
            raise ValueError("guidance other than 1 needs a condition, such as class, and label_drop above 0")
        return self


@dataclass(frozen=True)
class ImageSpace:
    """What one image is to the priors of one tokenizer: a grid of codes, and of latent vectors before quantisation."""

    num_codes: tuple[int, ...]
    """Codes per group."""
    grid: tuple[int, int]
    """Rows and columns of positions."""
    classes: tuple[str, ...] = ()
    """Names of the classes of images; empty where they have none."""
    latent_channels: int = 0
    """Channels of the latent, which priors get at unit standard deviation; 0 where there are only tokens."""

    @property
    def groups(self) -> int:
        """Codes per position."""
        return len(self.num_codes)


@dataclass(frozen=True)
class Condition:
    """What is known about each image of a batch; None where a part is not given, and `Condition()` for nothing.

    All parts have one entry per image.
    """

    labels: Int64[Tensor, " b"] | None = None
    """Class indices, -1 for an image without one."""
    text: Float[Tensor, "b l d"] | None = None
    """Features of the tokens of a caption."""
    text_ids: Int64[Tensor, "b l"] | None = None
    """Ids of the tokens of a caption, -1 after its end."""
    label_map: Int64[Tensor, "b H W"] | None = None
    """Class of each pixel, -1 where not known."""
    tokens: Int64[Tensor, "b g h w"] | None = None
    """Known codes, -1 where they are to be drawn."""

    @property
    def parts(self) -> dict[str, Tensor]:
        """The parts that are given, by name."""
        return {f.name: part for f in fields(self) if (part := getattr(self, f.name)) is not None}

    def to(self, device: torch.device) -> Condition:
        """The same condition on a device."""
        return self._changed(lambda part: part.to(device))

    def rows(self, rows: slice) -> Condition:
        """The condition of some of the images."""
        return self._changed(lambda part: part[rows])

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Condition:
        return Condition(**{name: change(part) for name, part in self.parts.items()})


Batch = tuple[Tensor, Condition]
"""Tokens or latents of images, and what is known about each."""


class Prior(nn.Module, ABC):
    """The base class of priors.

    Tokens are int64 of shape (b, g, h, w); latents are float32 of shape (b, c, h, w) with unit standard deviation over
    the training images.

    Args:
        config: the pair's params.
        space: what it models.

    Raises:
        MismatchError: `config` asks for classes, and the images have none.
    """

    kind: ClassVar[str]
    """Its key in `PRIORS`."""
    Params: ClassVar[type[PriorParams]]
    """The model of its params, whose field `kind` is the literal of the same name."""
    models: ClassVar[Literal["tokens", "latents"]] = "tokens"
    """Whether it models a tokenizer's tokens, or its latents before quantisation."""
    conditions: ClassVar[tuple[ConditionKind, ...]] = ("none",)
    """The values of `condition` that its params may have; another is refused when they are read."""
    known_tokens: ClassVar[Literal["none", "prefix", "any"]] = "none"
    """Which tokens can be given to `sample`: none, the first ones in raster order, or any subset."""
    config: PriorParams

    @classmethod
    def example(cls) -> dict[str, Any]:
        """A small prior for the tests that every prior of the table goes through.

        Returns:
            Values of `sampling` and of the fields that its params add to `PriorParams`.
        """
        return {"sampling": {"guidance": 1.0}}

    def __init__(self, config: PriorParams, space: ImageSpace) -> None:
        super().__init__()
        self.config, self.space = config, space
        if config.condition == "class" and not space.classes:
            raise MismatchError(
                "a class-conditional prior needs labels, and the tokens have none",
                found="0 classes",
                expected="condition: none, or a dataset with classes",
            )

    @abstractmethod
    def loss(self, batch: Tensor, condition: Condition) -> Float[Tensor, ""]:
        """The scalar to minimise on a batch of tokens or latents.

        Raises:
            MismatchError: a batch of another shape, or a condition that this prior does not take.
        """

    @abstractmethod
    def sample(self, condition: Condition, n: int, sampling: Any, generator: torch.Generator) -> Tensor:
        """Draw `n` images as tokens or latents; only in eval mode.

        Args:
            condition: one entry per image; known tokens are kept.
            sampling: a model of the type of `config.sampling`, usually that one.
            generator: a CPU generator, the only source of random numbers.

        Raises:
            MismatchError: a condition that this prior does not take.
        """

    def networks(self) -> Sequence[nn.Module]:
        """The modules whose forward passes `training.compile` compiles; none by default."""
        return ()

    def log_likelihood(self, batch: Tensor, condition: Condition) -> Float[Tensor, "b ..."] | None:
        """Natural log-probability of each image, or terms that add up to it; None where the prior cannot compute it.

        Raises:
            MismatchError: as `loss`.
        """
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW: weight decay on the weights of linear layers only."""
        return decay_groups(self)

    def curve_terms(self, loss: Float[Tensor, ""]) -> Mapping[str, Tensor]:
        """Further columns of the training curves, from the detached loss; none by default."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where the prior is."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def num_classes(self) -> int:
        """Classes that it can be asked for; 0 unless `condition` is `class`."""
        return len(self.space.classes) if self.config.condition == "class" else 0

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of a `Condition` that this prior, with its params, can be given."""
        return PARTS[self.config.condition] + (() if self.known_tokens == "none" else ("tokens",))

    def begin_sampling(self, condition: Condition, n: int) -> None:
        """The checks with which every `sample` starts.

        Raises:
            MismatchError: as `check_condition`.
            RuntimeError: training mode.
        """
        if self.training:
            raise RuntimeError("sample() needs eval mode: dropout would distort the samples")
        self.check_condition(condition, n)

    def check_condition(self, condition: Condition, n: int) -> None:
        """Refuse a condition that `sample` and `log_likelihood` of `n` images cannot be given.

        Raises:
            MismatchError: as `check_parts`; a label that is not a class; known tokens that are out of range, of another
                grid, or not a prefix where they must be one.
        """
        self.check_parts(condition, n)
        if condition.labels is not None:
            check_labels(condition.labels, self.num_classes)
        if condition.tokens is not None:
            self._check_tokens(condition.tokens)

    def check_parts(self, condition: Condition, n: int) -> None:
        """Refuse the wrong parts without looking at their values, which would wait for the device.

        Raises:
            MismatchError: a part that this prior does not take, or one that has not one entry per image.
        """
        parts = condition.parts
        refused = [name for name in parts if name not in self.takes]
        if refused:
            raise MismatchError(
                f"a prior {self.kind} with condition: {self.config.condition} cannot be given {', '.join(refused)}",
                found=", ".join(parts), choices=self.takes or ("nothing",),
            )  # fmt: skip
        for name, part in parts.items():
            if len(part) != n:
                raise MismatchError(
                    f"{name} must have one entry per image", found=len(part), expected=f"{n} images"
                )

    def _check_tokens(self, tokens: Int64[Tensor, "b g h w"]) -> None:
        space = self.space
        if tuple(tokens.shape[1:]) != (space.groups, *space.grid):
            raise MismatchError(
                "known tokens have the wrong shape",
                found=tuple(tokens.shape), expected=(len(tokens), space.groups, *space.grid),
            )  # fmt: skip
        for group, codes in enumerate(space.num_codes):
            own = tokens[:, group]
            if own.numel() and not -1 <= int(own.min()) <= int(own.max()) < codes:
                raise MismatchError(
                    f"a known code of group {group} is not in its codebook",
                    found=f"{int(own.min())} to {int(own.max())}",
                    expected=f"0 to {codes - 1}, or {UNKNOWN} for one to draw",
                )
        if self.known_tokens == "prefix":
            count = num_known(tokens)
            flat = tokens.flatten(2)
            if not ((flat[..., :count] >= 0).all() and (flat[..., count:] < 0).all()):
                raise MismatchError(
                    f"a prior {self.kind} takes known tokens only as the same prefix, in raster order, of every image "
                    "and group: it cannot condition on tokens that come after those it draws",
                    expected=f"codes, then {UNKNOWN} to the end",
                )  # fmt: skip


def check_labels(labels: Int64[Tensor, " b"], num_classes: int) -> None:
    """Refuse a label that is neither a class nor -1.

    Raises:
        MismatchError: the message gives the range.
    """
    if labels.numel() and not NO_LABEL <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise MismatchError(
            "a label is not a class of this prior",
            found=f"{int(labels.min())} to {int(labels.max())}",
            expected=f"0 to {num_classes - 1}, or {NO_LABEL} for none",
        )


def num_known(tokens: Int64[Tensor, "b g h w"]) -> int:
    """Length of the prefix of known codes in the first image's first group, in raster order."""
    return int((tokens[0, 0] >= 0).sum()) if len(tokens) else 0
