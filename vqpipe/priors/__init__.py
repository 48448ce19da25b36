"""Priors: second-stage generators over a tokenizer's tokens or latents. `vqpipe.priors.contract` says what one is."""

from __future__ import annotations

from typing import Any

from vqpipe.params.plugins import Table
from vqpipe.priors.contract import Prior

PRIORS: Table[Prior] = Table(
    "prior",
    {
        "gpt": "vqpipe.priors.gpt:GPT",
    },
)
"""Priors by kind."""
AnyPrior: Any = PRIORS.params()
"""The union of the params of all priors."""
