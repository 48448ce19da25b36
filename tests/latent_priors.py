"""Small priors over latents, and recorded numbers of the reference implementations, for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tests.small_priors import shared
from vqpipe.params.base import merged, validate
from vqpipe.priors.contract import ImageSpace
from vqpipe.priors.ddpm import Ddpm
from vqpipe.priors.flow import Flow
from vqpipe.priors.latent import LatentPrior

RECORDED = Path(__file__).parent / "data" / "parity"
TEXT = (4, 8)
NETWORKS: dict[str, dict[str, Any]] = {
    "dit": {"kind": "dit", "patch": 1, "width": 16, "num_layers": 2, "num_heads": 2, "mlp_ratio": 2.0},
    "unet": {
        "kind": "unet", "channels": 8, "channel_multipliers": [1, 2], "num_blocks": 1, "attention_levels": [1],
        "num_heads": 2, "context_width": 8, "dropout": 0.1,
    },
}  # fmt: skip
P = TypeVar("P", bound=LatentPrior)


def recorded(name: str) -> dict[str, Tensor]:
    """The arrays of a file of recorded numbers."""
    with np.load(RECORDED / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def equal(found: Tensor, expected: Tensor) -> None:
    """Equal to a part in 1e6 in float64, in 1e5 in float32, of each number or of the largest one."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    part = 1e-6 if expected.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, expected, rtol=part, atol=part * float(expected.abs().max()))


def latent_params(prior: type[P], **changes: Any) -> Any:
    text = {"encoder": "clip", "max_tokens": TEXT[0]} if changes.get("condition") == "text" else None
    own = {"kind": prior.kind, "condition": "none", "condition_drop": 0.0, "text": text, **prior.example()}
    return validate(merged(merged(shared(), own), changes), "prior", prior.Params)


def latent_prior(
    prior: type[P], channels: int = 4, grid: tuple[int, int] = (2, 3), std: float = 0.3, **changes: Any
) -> P:
    """A small prior whose weights are moved from where they start by `std`, in eval mode."""
    text = TEXT if changes.get("condition") == "text" else (0, 0)
    space = ImageSpace((5,), grid, ("red", "green", "blue"), channels, (1.0,) * channels, 12, (), *text)
    torch.manual_seed(0)
    made = prior(latent_params(prior, **changes), space)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return made.eval()


BOTH = (Ddpm, Flow)
