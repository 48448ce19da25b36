"""A look at an imported tokenizer: a test picture there and back, and how many of its codes can be reached.

Nothing here can prove that the codes are right; it finds what is broken: values that are not finite, indices that do
not come back from the quantizer, a codebook of which next to nothing is in reach of the encoder's latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vqpipe.errors import MismatchError
from vqpipe.runtime.host import count_codes
from vqpipe.tokenizers.tokenizer import Tokenizer

MOST = 256
"""Side of the test picture at most, pixels."""
DRAWS = 65_536
"""Random latents at most."""
PER_CODE = 16
"""Random latents for each code at most."""
WORK = 10**11
"""Products of the search among the codes at most: some seconds on two cores."""
LEAST = 1_024
"""Random latents at least, also where the search then takes longer."""


@dataclass(frozen=True)
class Check:
    """What was found."""

    num_codes: tuple[int, ...]
    """K per group."""
    dim: int
    """Of the quantised latent."""
    bits: float
    """Of one image at fixed length."""
    draws: int
    """Random latents: normal, each channel with the mean and the spread that the encoder gives on the test picture."""
    reached: tuple[float, ...]
    """Per group, the share of its codes that those latents reach."""
    used: tuple[int, ...]
    """Per group, codes of the test picture."""
    low: float
    """The least value of its reconstruction; images are in [-1, 1]."""
    high: float
    """The largest."""


def sample_picture(side: int) -> Float[Tensor, "1 3 side side"]:
    """Two ramps, a wave and noise, in [-1, 1]; the same on every machine."""
    ramp = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(ramp, ramp, indexing="ij")
    picture = torch.stack([rows, columns, torch.sin(9 * (rows + columns))])
    noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (0.7 * picture + 0.3 * noise)[None]


@torch.no_grad()
def look(tokenizer: Tokenizer, where: str) -> Check:
    """Encode and decode the test picture, and draw latents.

    Raises:
        MismatchError: a latent or a reconstruction that is not finite, or indices whose codes are not those that the
            quantizer passes on.
    """
    factor = tokenizer.config.trunk.downsampling
    picture = sample_picture(max(factor, min(tokenizer.resolution, MOST) // factor * factor))
    latent = tokenizer.encode_latent(picture)
    _finite(latent, f"{where}: the latent of a test picture is not finite")
    quantized = tokenizer.quantizer(latent)
    if not torch.equal(tokenizer.quantizer.decode(quantized.indices), quantized.z_q):
        raise MismatchError(f"{where}: indices of the quantizer do not give back its latent")
    image = tokenizer.decode_latent(quantized.z_q)
    _finite(image, f"{where}: the reconstruction of a test picture is not finite")
    codes = max(tokenizer.num_codes)
    draws = min(DRAWS, PER_CODE * codes, max(LEAST, WORK // (codes * latent.shape[1])))
    random = torch.randn(draws, latent.shape[1], generator=torch.Generator().manual_seed(1))
    spread, mean = latent.std((0, 2, 3), correction=0), latent.mean((0, 2, 3))
    found = tokenizer.quantizer.indices((random * spread + mean)[:, :, None, None])
    return Check(
        num_codes=tokenizer.num_codes, dim=latent.shape[1], bits=tokenizer.bits_per_image, draws=draws,
        reached=tuple(
            _used(part, num) / num for part, num in zip(found.unbind(1), tokenizer.num_codes, strict=True)
        ),
        used=tuple(map(_used, quantized.indices.unbind(1), tokenizer.num_codes)),
        low=float(image.min()), high=float(image.max()),
    )  # fmt: skip


def _finite(tensor: Tensor, problem: str) -> None:
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise MismatchError(problem, found=f"{bad:,} of {tensor.numel():,} values")


def _used(indices: Tensor, num_codes: int) -> int:
    """How many codes are there."""
    return int((count_codes(indices.flatten(), num_codes) > 0).sum())
