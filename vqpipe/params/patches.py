"""Params of the `patches` stage: which CLIP patch features are written, and how they are pooled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vqpipe.params.base import Params


class PatchesParams(Params):
    """The `patches` section."""

    split: Literal["train", "validation", "test"]
    """The split whose images are used; a codebook prior should see `train` alone."""
    projected: bool
    """Apply CLIP's visual projection after the last norm, as VQGAN-LC does; else keep the tower's width."""
    grid: Annotated[int, Field(ge=1)]
    """Side of the grid that features are average-pooled to before writing; divides the tower's own grid."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images per forward pass."""
    shard_bytes: Annotated[int, Field(ge=1 << 10)]
    """Size of a shard of features, in bytes; a shard holds whole images."""
    max_bad_fraction: Annotated[float, Field(ge=0, lt=1)]
    """Share of the split's images that may be unreadable; they are left out and listed. Above it the stage fails."""
