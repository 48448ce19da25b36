"""Params of the quantizers: one model per method, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vqpipe.params.quantizers.lc import LcParams
from vqpipe.params.quantizers.nearest import VqParams
from vqpipe.params.quantizers.vqct import VqctParams

QuantizerParams = Annotated[VqParams | VqctParams | LcParams, Field(discriminator="kind")]
