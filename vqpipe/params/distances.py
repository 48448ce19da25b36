"""Params of distances between two sets of images, shared by `prior` and `evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vqpipe.params.base import Params


class DistanceParams(Params):
    """Which features the distances are taken in, and how the kernel distance is averaged."""

    features: Literal["clip", "inception"]
    """`clip`: the CLIP in use (`fd_clip`, `kd_clip`); `inception`: torch-fidelity's network (`fid`,
    `kid`)."""
    num_subsets: Annotated[int, Field(ge=2)]
    """Random subsets over which the kernel distance is averaged."""
    subset_images: Annotated[int, Field(ge=2)]
    """Images per subset and side; no more than the images there are."""
    num_neighbours: Annotated[int, Field(ge=1)]
    """Neighbours that set the radius of a ball in improved precision and recall; 3 in the paper."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of the subsets."""
