"""The codes of a split, encoded once by a tokenizer that is trained no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.metrics.measured import ImagesDigest
from vqpipe.quantizers.contract import Quantized
from vqpipe.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class FrozenCodes:
    """Indices of images, and what they stand for; nothing has a gradient."""

    tokenizer: Tokenizer
    """In eval mode."""
    indices: Int32[Tensor, "n g h w"]
    """On the CPU."""
    vectors: tuple[Float[Tensor, "K dg"], ...]
    """Per group, the code vectors; empty for methods that have none."""

    @classmethod
    @torch.no_grad()
    def encode(
        cls,
        tokenizer: Tokenizer,
        split: ImageSplit,
        positions: Int64[np.ndarray, " n"],
        batch_size: int,
        device: torch.device,
        digest: ImagesDigest | None = None,
    ) -> FrozenCodes:
        """The codes of centre crops of the named images, in that order.

        Args:
            tokenizer: in eval mode, on `device`.
            positions: at least one, in the split.
            batch_size: images per pass.
            digest: takes the images too.
        """
        parts: list[Tensor] = []
        vectors: tuple[Tensor, ...] = ()
        for at in range(0, len(positions), batch_size):
            images = split.gather(positions[at : at + batch_size], None, "centre", False)
            if digest is not None:
                digest.add(images)
            latent = tokenizer.encode_latent(to_float(images).to(device))
            quantized: Quantized = tokenizer.quantizer(latent, 1.0)
            parts.append(quantized.indices.int().cpu())
            vectors = vectors or tuple(part.detach().float() for part in quantized.vectors)
        return cls(tokenizer, torch.cat(parts), vectors)

    def __len__(self) -> int:
        return len(self.indices)

    @torch.no_grad()
    def quantized(self, indices: Int64[Tensor, "b g h w"]) -> Quantized:
        """What the quantizer gave for these indices, without its loss; on the indices' device."""
        zero = torch.zeros((), device=indices.device)
        return Quantized(self.tokenizer.quantizer.decode(indices), indices, zero, {}, self.vectors)

    def rows(self, rows: Sequence[int] | Int64[np.ndarray, " b"]) -> Int64[Tensor, "b g h w"]:
        """The indices of some of the images, by their numbers here, on the CPU."""
        return self.indices[torch.from_numpy(np.array(rows, dtype=np.int64))].long()
