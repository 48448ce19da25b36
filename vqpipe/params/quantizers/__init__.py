"""Params of the quantizers: one model per method, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vqpipe.params.quantizers.lc import LcParams
from vqpipe.params.quantizers.nearest import (
    CvqParams,
    EmaParams,
    FcParams,
    RegVqParams,
    SimVqParams,
    VqParams,
)
from vqpipe.params.quantizers.residual import ResidualParams
from vqpipe.params.quantizers.scalar import FsqParams, LfqParams
from vqpipe.params.quantizers.soft import GumbelParams, IbqParams, SqVaeParams
from vqpipe.params.quantizers.vqct import VqctParams

BaseQuantizerParams = Annotated[
    CvqParams
    | EmaParams
    | FcParams
    | FsqParams
    | GumbelParams
    | IbqParams
    | LcParams
    | LfqParams
    | RegVqParams
    | SimVqParams
    | SqVaeParams
    | VqParams
    | VqctParams,
    Field(discriminator="kind"),
]  # fmt: skip
"""Every method that can be a stage of `residual`: all but `residual`."""

ResidualParams.model_rebuild(_types_namespace={"BaseQuantizerParams": BaseQuantizerParams})

QuantizerParams = Annotated[BaseQuantizerParams | ResidualParams, Field(discriminator="kind")]
