"""Params of residual quantisation: stages of any other method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from vqpipe.params.base import Params

if TYPE_CHECKING:
    from vqpipe.params.quantizers import BaseQuantizerParams


class ResidualParams(Params):
    """Each stage quantises what the stages before it left over (RQ-VAE, SoundStream).

    `base` is any method but this one; the union of them is made in the package's `__init__`, which completes
    this model.
    """

    kind: Literal["residual"]
    base: BaseQuantizerParams
    """The quantizer of every stage."""
    num_stages: int = Field(ge=1, le=32)
    """Stages, each with the base's groups: an image has num_stages times the base's indices."""
    shared: bool
    """One codebook for all stages (RQ-VAE's form), or each its own (SoundStream's)."""
    stage_scale: float | None = Field(default=None, gt=0, le=1)
    """Stage s divides what it receives by stage_scale^s and multiplies its codes by it, from s = 0; None: 1. For
    bases whose codes are fixed: 1 / (L - 1) for `fsq` of L levels, 1/2 for `lfq`."""
    reduce: Literal["sum", "mean"]
    """The loss over the stages: `sum` (RQ-VAE) or `mean`."""

    @property
    def dim(self) -> int:
        """Dimension of the z that the quantizer receives: the base's."""
        return self.base.dim
