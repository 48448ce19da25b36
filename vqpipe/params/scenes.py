"""Params of the embedded data set: pictures rendered from a grammar, with captions that are true of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vqpipe.params.base import Params


class ScenesSource(Params):
    """The `scenes` source. Its raw data are the renderer's own modules, so DVC watches those."""

    kind: Literal["scenes"]
    """Selects this source."""
    path: Literal["vqpipe/data/scenes"]
    """Where the renderer lives in the checkout: the raw input of this source."""
    resolution: int = Field(ge=32, le=1024)
    """Height and width of the pictures, in pixels. The geometry does not depend on it."""
    supersample: int = Field(ge=1, le=8)
    """Samples per pixel and axis for the edges of objects; 4 gives 17 levels of cover along a straight
    edge."""
    num_train: int = Field(ge=0)
    """Images in the train split."""
    num_validation: int = Field(ge=0)
    """Images in the validation split."""
    num_test: int = Field(ge=0)
    """Images in the test split."""
    seed: int = Field(ge=0)
    """An image depends on this seed, its split and its index in the split, and on nothing else."""
    max_objects: int = Field(ge=1, le=4)
    """Most objects in a picture; at least one is always there."""
    max_captions: int = Field(ge=3, le=5)
    """Most captions per picture; at least three are always there."""
