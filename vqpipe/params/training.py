"""Params of a training run, shared by every model that the engine trains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vqpipe.params.base import Params


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
    """AdamW's decoupled decay, on the parameters that the model says should decay."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    """Part of the steps over which the rate rises linearly."""
    final_lr_fraction: Annotated[float, Field(ge=0, le=1)]
    """The rate at the last step, as a part of the peak; between the two it follows a half cosine."""
    clip_grad_norm: Annotated[float, Field(ge=0)]
    """Largest global gradient norm; 0 turns clipping off."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the weights' exponential moving average; 0 turns it off and the last weights are kept."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Autocast precision of the networks; quantisation is always fp32."""
    log_every: Annotated[int, Field(ge=1)]
    """Steps per row of the training curves; each row is the mean over its window."""
    checkpoint_every: Annotated[int, Field(ge=1)]
    """Steps between checkpoints; also how far back a non-finite step rolls."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Micro-batches per step, run one after the other to save memory; `batch_size` stays the step's number of items,
    and neither their order nor the gradient of a loss that is a mean over items depends on this. What looks at a
    whole batch sees a micro-batch: batch norm, moving-average codebooks, the adaptive adversarial weight."""
    channels_last: bool = False
    """Keep convolutions' weights and images in the channels-last layout; equal results but for rounding."""
    compile: bool = False
    """Compile the networks with torch.compile (the first steps take minutes); equal results but for rounding."""
    deterministic: bool = False
    """Let torch take deterministic algorithms alone; an operation that has none is an error. On the CPU every
    operation in use is deterministic already."""
