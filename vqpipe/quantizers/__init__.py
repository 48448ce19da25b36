"""Quantizers: one file per method, one contract, one dictionary.

To add one: a file named after the method with its paper linked at the top, a params model in
`vqpipe.params.quantizers`, an entry here, and a recipe in `tests/properties/test_quantizers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vqpipe.codebooks.load import Prior
from vqpipe.params.quantizers import QuantizerParams
from vqpipe.quantizers.contract import Codebook, Names, Quantized, Quantizer, QuantizerModule
from vqpipe.quantizers.cvq import OnlineClusteredQuantizer
from vqpipe.quantizers.ema import MovingAverageQuantizer
from vqpipe.quantizers.fc import FactorisedCodesQuantizer
from vqpipe.quantizers.fsq import FiniteScalarQuantizer
from vqpipe.quantizers.gumbel import GumbelQuantizer
from vqpipe.quantizers.ibq import IndexBackpropagationQuantizer
from vqpipe.quantizers.lc import LargeCodebookQuantizer
from vqpipe.quantizers.lfq import LookupFreeQuantizer
from vqpipe.quantizers.reg_vq import RegularisedQuantizer
from vqpipe.quantizers.residual import ResidualQuantizer
from vqpipe.quantizers.sim_vq import SimVectorQuantizer
from vqpipe.quantizers.sq_vae import SqVaeQuantizer
from vqpipe.quantizers.vq import VectorQuantizer
from vqpipe.quantizers.vqct import CodebookTransferQuantizer

__all__ = [
    "QUANTIZERS", "Codebook", "Prior", "Quantized", "Quantizer", "QuantizerModule", "build", "from_state",
]  # fmt: skip

QUANTIZERS: dict[str, type[QuantizerModule]] = {
    "cvq": OnlineClusteredQuantizer,
    "ema": MovingAverageQuantizer,
    "fc": FactorisedCodesQuantizer,
    "fsq": FiniteScalarQuantizer,
    "gumbel": GumbelQuantizer,
    "ibq": IndexBackpropagationQuantizer,
    "lc": LargeCodebookQuantizer,
    "lfq": LookupFreeQuantizer,
    "reg_vq": RegularisedQuantizer,
    "residual": ResidualQuantizer,
    "sim_vq": SimVectorQuantizer,
    "sq_vae": SqVaeQuantizer,
    "vq": VectorQuantizer,
    "vqct": CodebookTransferQuantizer,
}
"""Every method by the `kind` of its params."""


def build(config: QuantizerParams, prior: Prior) -> QuantizerModule:
    """A quantizer ready to train, on the CPU; its weights draw from torch's global generator.

    Raises:
        MismatchError: the params and the prior do not fit; the message names both.
    """
    return QUANTIZERS[config.kind].from_prior(config, prior)


def from_state(
    config: QuantizerParams, tensors: Mapping[str, Tensor], names: Names | None = None
) -> QuantizerModule:
    """The quantizer of a checkpoint, in eval mode, without its prior; see `QuantizerModule.from_state`."""
    return QUANTIZERS[config.kind].from_state(config, tensors, names)
