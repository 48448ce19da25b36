"""Frozen random codes under one trained linear map, so that all codes move together.

Paper: SimVQ, Addressing Representation Collapse in Vector Quantized Models with One Linear Layer, arXiv 2411.02038,
section 4.

The codes are C W (+ b): C is K x d, drawn once from a normal distribution of variance 1 / d and never trained; W is
d x d. A step on W moves every code, used or not, so none is left behind. Search and losses are those of `vq`. The
paper's form has no bias; its public code's linear layer has one.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vqpipe.quantizers.contract import About
from vqpipe.quantizers.moments import compose, moment_map
from vqpipe.quantizers.nearest import NearestCodeParams, NearestCodeQuantizer


class SimVqParams(NearestCodeParams):
    """Frozen random codes under one trained linear map (SimVQ)."""

    kind: Literal["sim_vq"]
    num_codes: int = Field(ge=1)
    """K, the number of codes."""
    bias: bool
    """Whether the map has a bias: false in the paper's form, true for `init: data`."""
    init: Literal["standard", "data"]
    """The map at the start: `standard` (a linear layer's own, the paper's form), or `data`: set so that the codes have
    the mean and covariance of the first batch's latents."""

    @model_validator(mode="after")
    def _data_needs_bias(self) -> SimVqParams:
        if self.init == "data" and not self.bias:
            raise ValueError("init data moves the codes' mean to that of the latents, which needs bias: true")
        return self


class SimVectorQuantizer(NearestCodeQuantizer):
    """One group; only the map is trained, `frozen` (K, d) is a buffer."""

    kind = "sim_vq"
    Params = SimVqParams
    about = About(
        title="SimVQ",
        codes="frozen random vectors under one linear map",
        moved_by="the map moves all codes at once",
        papers="SimVQ 2411.02038",
        example={
            "kind": "sim_vq", "dim": 8, "num_codes": 16, "beta": 0.25, "beta_on": "commitment", "bias": False,
            "init": "standard",
        },
    )  # fmt: skip
    frozen: Tensor
    frozen_buffers = ("frozen",)

    def __init__(self, config: SimVqParams) -> None:
        super().__init__(config, ["code"], [config.num_codes], data_init=config.init == "data")
        self.register_buffer("frozen", torch.randn(config.num_codes, config.dim) * config.dim**-0.5)
        self.map = nn.Linear(config.dim, config.dim, bias=config.bias)

    def live_codes(self) -> tuple[Float[Tensor, "K d"]]:
        """The mapped codes."""
        return (self.map(self.frozen),)

    def set_from_data(self, rows: Float[Tensor, "1 n d"]) -> None:
        """Set the map so that the codes have the mean and covariance of the first batch's latents."""
        compose(self.map, *moment_map(self.live_codes()[0], rows[0]))
