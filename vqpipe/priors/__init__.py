"""Priors: second-stage generators over a tokenizer's tokens or latents; one file per prior, one contract, one table.

To add one: a file with its params model and its class, and a line in `PRIORS`; see `vqpipe.priors.contract`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vqpipe.params.plugins import Table
from vqpipe.priors.contract import Prior, PriorParams

PRIORS: Table[Prior] = Table(
    "prior",
    {
        "gpt": "vqpipe.priors.gpt:GPT",
    },
)
"""Priors by kind."""

if TYPE_CHECKING:
    AnyPrior = PriorParams
else:
    AnyPrior = PRIORS.params()
    """The type of a field that takes the params of any prior, by its `kind`."""
