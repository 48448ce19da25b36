"""What the training loop takes, an objective and its params, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn

from vqpipe.params.base import Params
from vqpipe.runtime.device import Precision

Decay = Literal["cosine", "linear"]
"""The shape of a learning rate's fall after the warm-up."""
USUAL = {"decay": "cosine", "optimizer": "adamw", "hidden_learning_rate": None}
"""What files from before these fields were there have meant."""


class TrainingParams(Params):
    """Optimiser, schedule, averaging and checkpoints."""

    num_steps: Annotated[int, Field(ge=1)]
    """Optimiser steps (batches); every fraction elsewhere is a fraction of this."""
    batch_size: Annotated[int, Field(ge=1)]
    """Items per step over all ranks."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Peak learning rate, reached at the end of the warm-up."""
    betas: tuple[float, float]
    """Adam's decay rates of the first and second moment."""
    weight_decay: Annotated[float, Field(ge=0)]
    """AdamW's decoupled decay, on the parameters that the model marks for decay."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    """Part of the steps over which the rate rises linearly."""
    final_lr_fraction: Annotated[float, Field(ge=0, le=1)]
    """The rate at the last step, as a part of the peak; between the two it follows `decay`."""
    clip_grad_norm: Annotated[float, Field(ge=0)]
    """Largest global gradient norm; 0 turns clipping off."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the weights' exponential moving average; 0 turns it off and the last weights are published."""
    precision: Precision
    """Of the networks: `fp32`; `tf32`, which is fp32 but for the factors of matrix products on CUDA; or autocast to
    `bf16` or `fp16`. Quantisation is always fp32."""
    log_every: Annotated[int, Field(ge=1)]
    """Steps per row of the training curves; each row is the mean over its window."""
    checkpoint_every: Annotated[int, Field(ge=1)]
    """Steps between checkpoints; also how far back a non-finite step rolls."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Micro-batches per step, run one after the other to save memory; `batch_size` stays the step's number of items,
    and neither their order nor the gradient of a loss that is a mean over items depends on this. What depends on the
    whole batch sees a micro-batch: batch norm, moving-average codebooks, the adaptive adversarial weight."""
    channels_last: bool = False
    """Keep convolutions' weights and images in the channels-last layout; results are equal up to rounding."""
    compile: bool = False
    """Compile the networks with torch.compile (the first steps take minutes); results are equal up to rounding."""
    deterministic: bool = False
    """Allow only deterministic algorithms in torch; an operation that has none is an error. On the CPU every
    operation in use is deterministic already."""
    decay: Decay = "cosine"
    """How the rate falls from its peak to the last step: half a `cosine` (VQGAN-LC's tokenizer), or `linear` (its
    GPT, appendix A)."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """What takes the steps: AdamW (the papers'), or, of priors, Muon for the matrices inside the network and AdamW for
    all else (`vqpipe.training.muon`)."""
    hidden_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Of `optimizer: muon`: the peak rate of the matrices inside the network, which rises and falls with
    `learning_rate`; null for the same."""

    @model_validator(mode="after")
    def _hidden_rate_is_of_muon(self) -> TrainingParams:
        if self.hidden_learning_rate is not None and self.optimizer != "muon":
            raise ValueError("hidden_learning_rate needs optimizer: muon; adamw has one rate for all")
        return self

    @property
    def hidden_scale(self) -> float:
        """The rate of the matrices inside the network in units of that of all else."""
        return 1.0 if self.hidden_learning_rate is None else self.hidden_learning_rate / self.learning_rate

    @model_serializer(mode="wrap")
    def _without_the_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is as in `USUAL` is left out, so that protocols and files of before the fields were there stay equal."""
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if USUAL.get(name) != value}


class Objective(ABC):
    """A model and the losses that train it: what `run_training` needs from the model's package.

    The methods with a body are hooks; an objective overrides those that it needs.
    """

    module: nn.Module
    """What a checkpoint contains."""
    phases: tuple[str, ...] = ("main",)
    """Run in turn within each step, each with its own optimiser: `("ae", "disc")` for an autoencoder and its
    discriminator."""

    @abstractmethod
    def parameters(self, phase: str) -> list[dict[str, Any]]:
        """Parameter groups for the phase's optimiser; a group may set `weight_decay` and a factor `lr_scale`."""

    def hidden(self, phase: str) -> Mapping[nn.Parameter, int]:
        """The phase's matrices between embeddings and heads, for `training.optimizer: muon`, and of how many matrices
        each is the rows; none by default."""
        return {}

    @abstractmethod
    def loss(self, phase: str, batch: Any, progress: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The scalar to minimise and named terms for the curves, on one micro-batch of this rank's share.

        Terms stay tensors on the device: reading one makes the host wait. All ranks return the same names.
        """

    @abstractmethod
    def networks(self) -> Sequence[nn.Module]:
        """The modules whose forward passes `training.compile` compiles: static shapes, no search."""

    def uncompiled(self) -> Sequence[nn.Module]:
        """Parts of `networks()` that are not compiled, each a break between two compiled graphs; none by default.

        The module of a weight at which the loss takes `autograd.grad` must be one: the graph behind it is then not
        run, and a compiled graph allows only one backward pass. What follows it in its network may keep no tensor for
        that pass, as additions and permutations do not.
        """
        return ()

    def active(self, phase: str, progress: float) -> bool:
        """Whether the phase runs at this part of the training, `progress` in [0, 1)."""
        return True

    def published(self) -> Mapping[str, nn.Module]:
        """What the averaged weights follow: parts of `module` by their names in it; by default all of it, as "".

        A submodule can list buffers that never change in a tuple `frozen_buffers`; they are not followed.
        """
        return {"": self.module}

    def unused(self, phase: str) -> bool:
        """Whether the phase's loss may leave some of its parameters without a gradient in some step.

        Data-parallel training then looks for them in every step; where this is False and there is one, it fails.
        """
        return True

    def begin(self, batches: Sequence[Any], step: int, progress: float) -> None:  # noqa: B027
        """Called before each step, counted from 0, with its micro-batches."""

    def observe(self, progress: float) -> None:  # noqa: B027
        """Called after each step that was finite, with the progress reached.

        What an objective keeps from one step to the next must be part of the module's state, or a resumed run loses
        it, and the same on all ranks.
        """


@dataclass(frozen=True)
class TrainingCost:
    """What the steps of this process took, without those before it was resumed. Never part of a result's content."""

    num_steps: int
    cpu_seconds: float
    """Processor time of all threads: other work on the machine hardly changes it."""
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """The end of a training."""

    weights: dict[str, Tensor]
    """The module's state: averaged where `averaged` and the average follows them, else the last ones."""
    averaged: bool
    num_steps: int
    num_rollbacks: int
    rows: Sequence[Mapping[str, float]]
    """The training curves."""
    cost: TrainingCost
