"""What every prior is: its params, the image space that it models, the conditions that it takes, and its base class.

A prior is one file with a `Params` model and a subclass of `Prior`, and one line in `vqpipe.priors.PRIORS`.

Letters: b or n images, g groups of codes, h w the token grid, c channels of the latent, l text tokens, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from vqpipe.errors import MismatchError
from vqpipe.metrics.distances import DistanceParams
from vqpipe.models.transformer import decay_groups
from vqpipe.params.base import Params
from vqpipe.params.names import Name
from vqpipe.priors.text import TextParams
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

    guidance: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    """Classifier-free guidance scale s: prediction = u + s (c - u). 1 is none, 0 ignores the condition. Logits of a
    much larger one than 1e6 would not be finite in float32."""


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
    condition_drop: Annotated[float, Field(ge=0, lt=1)]
    """Part of the conditions that training replaces by the null condition; guidance other than 1 needs some."""
    text: TextParams | None = None
    """The frozen text encoder of `condition: text`; null for other conditions."""
    training: TrainingParams
    """Optimiser, schedule, averaging and checkpoints."""
    sampling: SamplingParams
    """How the samples of the metrics and of the grid are drawn."""
    num_samples: Annotated[int, Field(ge=16)]
    """Samples measured against equally many test images, or as many as the test split has."""
    max_completed: Annotated[int, Field(ge=8)] | None = None
    """Most test images that are completed, for each hole; null for no limit but half of those that are measured. Only
    of priors that can be given known tokens."""
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
        if self.sampling.guidance != 1 and (self.condition == "none" or self.condition_drop == 0):
            raise ValueError(
                "guidance other than 1 needs a condition, such as class, and condition_drop above 0"
            )
        return self

    @model_validator(mode="after")
    def _completes_what_it_counts(self) -> Self:
        from vqpipe.priors import PRIORS

        takes = PRIORS[self.kind].known_tokens if self.kind in PRIORS else "none"
        if self.max_completed is not None and takes == "none":
            raise ValueError(f"max_completed: the prior {self.kind} cannot be given known tokens")
        return self

    @model_validator(mode="after")
    def _text_has_encoder(self) -> Self:
        if (self.condition == "text") != (self.text is not None):
            raise ValueError(
                "condition: text needs text, the params of its encoder, and no other condition has them"
            )
        return self


@dataclass(frozen=True)
class ImageSpace:
    """What one image is to the priors of one tokenizer: a grid of codes, and of latent vectors before quantisation;
    and what can be known about it."""

    num_codes: tuple[int, ...]
    """Codes per group."""
    grid: tuple[int, int]
    """Rows and columns of positions."""
    classes: tuple[str, ...] = ()
    """Names of the classes of images; empty where they have none."""
    latent_channels: int = 0
    """Channels of the latent, which priors get at unit standard deviation; 0 where there are only tokens."""
    latent_std: tuple[float, ...] = ()
    """Standard deviation of each channel of the tokenizer's latent over the training images; empty for priors over
    tokens."""
    resolution: int = 0
    """Side of images and of label maps in pixels; 0 where it is not known."""
    map_classes: tuple[str, ...] = ()
    """Names of the classes of a label map; empty where the images have none."""
    text_length: int = 0
    """l, tokens of every text, padding included; 0 unless `condition` is `text`."""
    text_dim: int = 0
    """d, channels of a text token's features."""

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
    """Features of the tokens of a caption, 0 after its end."""
    text_ids: Int64[Tensor, "b l"] | None = None
    """Ids of the tokens of a caption, -1 after its end; an image without a caption has -1 alone."""
    label_map: Int64[Tensor, "b H W"] | None = None
    """Class of each pixel, -1 where not known; an image without a map has -1 alone."""
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
        MismatchError: `config` asks for classes or label maps, and the images have none.
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
        if config.condition == "label_map" and not space.map_classes:
            raise MismatchError(
                "a prior of label maps needs images with maps, and the dataset has none",
                found="0 classes of pixels",
                expected="condition: none, or a dataset with segmentations",
            )
        if config.condition == "text" and not space.text_length:
            raise MismatchError("a text-conditional prior needs a text encoder", found="texts of 0 tokens")

    @abstractmethod
    def loss(self, batch: Tensor, condition: Condition) -> Float[Tensor, ""]:
        """The scalar to minimise on a batch of tokens or latents; every trained parameter gets a gradient from it.

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

    def inside(self) -> Sequence[nn.Module]:
        """The parts of the network between embeddings and heads, whose matrices `training.optimizer: muon` moves; by
        default `networks()`."""
        return self.networks()

    def network_evaluations(self, sampling: Any, known: int = 0) -> int | None:
        """Passes of an image through the network in `sample`, with guidance also those without its condition, where
        they cannot be counted as the network is called; None where they can.

        Args:
            sampling: as in `sample`.
            known: positions whose tokens are given.
        """
        return None

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
    def knows_null(self) -> bool:
        """Whether the null condition was trained: always without a condition, else where conditions were dropped."""
        return self.config.condition == "none" or self.config.condition_drop > 0

    def given(self, condition: Condition, n: int) -> Bool[Tensor, " n"]:
        """Which of `n` images have the condition that `config.condition` names."""
        if condition.labels is not None:
            return condition.labels != NO_LABEL
        if condition.text_ids is not None:
            return (condition.text_ids >= 0).any(dim=1)
        if condition.label_map is not None:
            return (condition.label_map >= 0).flatten(1).any(dim=1)
        return torch.zeros(n, dtype=torch.bool)

    def dropped(self, condition: Condition) -> Condition:
        """The condition without that of a share `condition_drop` of the images, drawn from the global generator."""
        if self.config.condition == "none" or self.config.condition_drop == 0:
            return condition
        parts = {name: part for name, part in condition.parts.items() if name != "tokens"}
        count, device = len(next(iter(parts.values()))), self.device
        gone = torch.rand(count, device=device) < self.config.condition_drop

        def without(part: Tensor) -> Tensor:
            nothing = 0 if part.is_floating_point() else -1
            return part.to(device).masked_fill(gone.view(-1, *[1] * (part.ndim - 1)), nothing)

        return replace(condition, **{name: without(part) for name, part in parts.items()})

    def need_null(self, what: str) -> None:
        """Refuse what needs the null condition where that was not trained.

        Raises:
            MismatchError: the message begins with `what`.
        """
        if not self.knows_null:
            raise MismatchError(
                f"{what} needs the null condition, which was not trained",
                found="condition_drop: 0",
                expected="condition_drop > 0",
            )

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of a `Condition` that this prior, with its params, can be given."""
        return PARTS[self.config.condition] + (() if self.known_tokens == "none" else ("tokens",))

    def flat(self, batch: Int64[Tensor, "b g h w"]) -> Int64[Tensor, "b g n"]:
        """A batch of tokens with its n = h * w positions in raster order.

        Raises:
            MismatchError: another grid or group count than the prior's.
        """
        own = (self.space.groups, *self.space.grid)
        if batch.ndim != 4 or tuple(batch.shape[1:]) != own:
            raise MismatchError(
                "tokens of another shape than this prior models",
                found=tuple(batch.shape), expected=f"(b, {', '.join(map(str, own))})",
            )  # fmt: skip
        return batch.flatten(2)

    def check_guidance(self, guidance: float) -> None:
        """Refuse guidance without a condition or without a trained null condition.

        Raises:
            MismatchError: the message has the scale.
        """
        if guidance == 1:
            return
        if self.config.condition == "none":
            raise MismatchError(
                f"guidance {guidance} needs a condition, and this prior takes none",
                found="condition: none", expected="guidance 1 (none), or a prior with a condition",
            )  # fmt: skip
        self.need_null(f"guidance {guidance}")

    def begin_sampling(self, condition: Condition, n: int, guidance: float) -> None:
        """The checks with which every `sample` starts.

        Raises:
            MismatchError: as `check_condition` and `check_guidance`.
            RuntimeError: training mode.
        """
        if self.training:
            raise RuntimeError("sample() needs eval mode: dropout would distort the samples")
        self.check_condition(condition, n, known=True)
        self.check_guidance(guidance)

    def check_condition(self, condition: Condition, n: int, known: bool = False) -> None:
        """Refuse a condition that `sample` or `log_likelihood` of `n` images cannot be given.

        Args:
            known: whether known tokens are accepted, which only samples take.

        Raises:
            MismatchError: as `check_parts`; a label or a pixel that is not a class; text or a map of another shape; an
                image without a condition where the null condition was not trained; known tokens that are out of range,
                of another grid, or not a prefix where they must be one.
        """
        self.check_parts(condition, n, known)
        if condition.labels is not None:
            check_labels(condition.labels, self.num_classes)
        if condition.label_map is not None:
            self._check_pixels(condition.label_map)
        if self.config.condition != "none" and not bool(self.given(condition, n).all()):
            self.need_null("an image without its condition")
        if condition.tokens is not None:
            self._check_tokens(condition.tokens)

    def check_parts(self, condition: Condition, n: int, known: bool = False) -> None:
        """Refuse the wrong parts without looking at their values, which would wait for the device.

        Args:
            known: as for `check_condition`.

        Raises:
            MismatchError: a part that this prior does not take, or one that has not one entry per image; text or a map
                of another shape; no condition at all where the null condition was not trained.
        """
        parts = condition.parts
        refused = [name for name in parts if name not in self.takes or (name == "tokens" and not known)]
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
        if condition.text is not None or condition.text_ids is not None:
            self._check_text(condition)
        side = self.space.resolution
        if condition.label_map is not None and tuple(condition.label_map.shape[1:]) != (side, side):
            raise MismatchError(
                "a label map is not of the images' size",
                found=f"{tuple(condition.label_map.shape)}", expected=f"(b, {side}, {side})",
            )  # fmt: skip
        if not set(parts) & set(PARTS[self.config.condition]) and n:
            self.need_null("an image without its condition")

    def _check_text(self, condition: Condition) -> None:
        text, ids, space = condition.text, condition.text_ids, self.space
        if text is None or ids is None:
            raise MismatchError(
                "text is given as features and ids", found="text" if ids is None else "text_ids"
            )
        if tuple(text.shape[1:]) != (space.text_length, space.text_dim) or text.shape[:2] != ids.shape:
            raise MismatchError(
                "the text is not of this prior's encoder",
                found=f"features {tuple(text.shape)}, ids {tuple(ids.shape)}",
                expected=f"features (b, {space.text_length}, {space.text_dim}), ids (b, {space.text_length})",
            )

    def _check_pixels(self, label_map: Int64[Tensor, "b H W"]) -> None:
        classes = len(self.space.map_classes)
        if label_map.numel() and not -1 <= int(label_map.min()) <= int(label_map.max()) < classes:
            raise MismatchError(
                "a label map has an unknown class",
                found=f"{int(label_map.min())} to {int(label_map.max())}",
                expected=f"0 to {classes - 1}, or -1 for none",
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


def deviations(latent_std: Sequence[float], device: torch.device) -> Float[Tensor, "1 c 1 1"]:
    """The factor between latents at unit standard deviation and those of a tokenizer."""
    return torch.tensor(latent_std, device=device).view(1, -1, 1, 1)


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
