"""Quantizers: one file per method, one contract, one table.

To add one: a file with its params model and its class, and a line in `QUANTIZERS`; see
`vqpipe.quantizers.contract`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.params.plugins import Table
from vqpipe.quantizers.contract import Codebook, Names, Quantized, Quantizer, QuantizerParams

__all__ = [
    "QUANTIZERS", "AnyQuantizer", "Codebook", "Quantized", "Quantizer", "QuantizerParams", "build", "from_state",
]  # fmt: skip

QUANTIZERS: Table[Quantizer] = Table(
    "quantizer",
    {
        "bsq": "vqpipe.quantizers.bsq:BinarySphericalQuantizer",
        "cvq": "vqpipe.quantizers.cvq:OnlineClusteredQuantizer",
        "diveq": "vqpipe.quantizers.diveq:DiveqQuantizer",
        "ema": "vqpipe.quantizers.ema:MovingAverageQuantizer",
        "fc": "vqpipe.quantizers.fc:FactorisedCodesQuantizer",
        "fsq": "vqpipe.quantizers.fsq:FiniteScalarQuantizer",
        "fvq": "vqpipe.quantizers.fvq:FullQuantizer",
        "gumbel": "vqpipe.quantizers.gumbel:GumbelQuantizer",
        "ibq": "vqpipe.quantizers.ibq:IndexBackpropagationQuantizer",
        "lc": "vqpipe.quantizers.lc:LargeCodebookQuantizer",
        "lfq": "vqpipe.quantizers.lfq:LookupFreeQuantizer",
        "multi": "vqpipe.quantizers.multi:MultiQuantizer",
        "reg_vq": "vqpipe.quantizers.reg_vq:RegularisedQuantizer",
        "residual": "vqpipe.quantizers.residual:ResidualQuantizer",
        "sim_vq": "vqpipe.quantizers.sim_vq:SimVectorQuantizer",
        "sq_vae": "vqpipe.quantizers.sq_vae:SqVaeQuantizer",
        "vq": "vqpipe.quantizers.vq:VectorQuantizer",
        "vqct": "vqpipe.quantizers.vqct:CodebookTransferQuantizer",
        "wasserstein": "vqpipe.quantizers.wasserstein:WassersteinQuantizer",
    },
)
"""Every method by the `kind` of its params."""

if TYPE_CHECKING:
    AnyQuantizer = QuantizerParams
else:
    AnyQuantizer = QUANTIZERS.params()
    """The type of a field that takes the params of any method, by its `kind`."""


def build(config: QuantizerParams, codebook: PretrainedCodebook) -> Quantizer:
    """A quantizer ready to train, on the CPU; its weights draw from torch's global generator.

    Raises:
        MismatchError: the params and the codebook do not fit; the message names both.
    """
    return QUANTIZERS[config.kind].from_codebook(config, codebook)


def from_state(
    config: QuantizerParams, tensors: Mapping[str, Tensor], names: Names | None = None
) -> Quantizer:
    """The quantizer of a checkpoint, in eval mode, without its pretrained codebook; see `Quantizer.from_state`."""
    return QUANTIZERS[config.kind].from_state(config, tensors, names)
