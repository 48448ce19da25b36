"""Priors: second-stage generators over a tokenizer's tokens or latents; one file per prior, one contract, one table.

To add one: a file with its params model and its class, and a line in `PRIORS`; see `vqpipe.priors.contract`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqpipe.params.base import load_params, validate
from vqpipe.params.plugins import Table
from vqpipe.priors.contract import Prior, PriorParams

PRIORS: Table[Prior] = Table(
    "prior",
    {
        "ddpm": "vqpipe.priors.ddpm:Ddpm",
        "flow": "vqpipe.priors.flow:Flow",
        "gpt": "vqpipe.priors.gpt:GPT",
        "vq_diffusion": "vqpipe.priors.vq_diffusion:VQDiffusion",
        "masked": "vqpipe.priors.masked:Masked",
    },
)
"""Priors by kind."""

if TYPE_CHECKING:
    AnyPrior = PriorParams
else:
    AnyPrior = PRIORS.params()
    """The type of a field that takes the params of any prior, by its `kind`."""


def load_prior_params(path: Path, pair: str) -> PriorParams:
    """The params of one entry of `prior.pairs` in a params file.

    Raises:
        ParamsError: no such pair or kind, or params that are not valid.
    """
    common, own = (
        load_params(path, section, dict[str, Any]) for section in ("prior.common", f"prior.pairs.{pair}")
    )
    whole = PRIORS.entry("prior.pairs", common, own)
    found: PriorParams = validate(whole, f"prior.pairs.{pair}", AnyPrior, path.name)
    return found
