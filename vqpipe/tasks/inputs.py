"""What a head sees of images: their frozen codes, or what those are compared with.

Letters: n images, b batch, g groups, d dimension of the quantised latent, h w its grid, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.metrics.measured import ImagesDigest
from vqpipe.quantizers.contract import Quantized
from vqpipe.runtime.preflight import need_memory
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.tokenizers.tokenizer import Tokenizer

Input = Literal["codes", "latents", "none"]
"""`codes`: the quantised latent and its indices. `latents`: the latent before quantisation, which shows what the
quantiser lost. `none`: zeros in its place, which shows what the task's other inputs give away."""


@dataclass(frozen=True)
class CodeSpace:
    """What a head needs to know of its input before it sees any."""

    grid: tuple[int, int]
    """h and w."""
    dim: int
    """d."""
    num_codes: tuple[int, ...]
    """K per group."""
    has_vectors: bool
    """Whether `Quantized.vectors` has the code vectors of each group."""
    code_dims: tuple[int, ...]
    """Dimension of each group's code vectors where the method trains them by gradient; else empty."""

    @property
    def num_positions(self) -> int:
        """h w."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class FrozenInputs:
    """The input of a head for some examples; nothing has a gradient.

    Codes and latents are computed once per image and kept on the CPU.
    """

    tokenizer: Tokenizer
    """In eval mode."""
    values: Tensor
    """Int32 (n, g, h, w) codes, float32 (n, d, h, w) latents, or int32 zeros (n, 1, 1, 1)."""
    vectors: tuple[Float[Tensor, "K dg"], ...] = ()
    """Per group, the code vectors; empty for methods that have none, and for other inputs than codes."""
    kind: Input = "codes"
    order: Int64[np.ndarray, " m"] | None = None
    """The row of `values` of each example; None for one row per example, in order."""

    @classmethod
    @torch.no_grad()
    def encode(
        cls,
        tokenizer: Tokenizer,
        split: ImageSplit,
        positions: Int64[np.ndarray, " m"],
        batch_size: int,
        device: torch.device,
        digest: ImagesDigest | None = None,
        kind: Input = "codes",
    ) -> FrozenInputs:
        """The input for examples of a split; centre crops, each image once.

        Args:
            tokenizer: in eval mode, on `device`.
            positions: the image of each example, by its place in the split; at least one.
            batch_size: images per pass.
            digest: takes the images too.

        Raises:
            SetupError: latents of all images do not fit in memory.
        """
        images, order = np.unique(positions, return_inverse=True)
        if kind == "latents":
            size = 4 * tokenizer.config.quantizer.dim * tokenizer.grid[0] * tokenizer.grid[1]
            need_memory(2 * size * len(images), f"the latents of {len(images):,} images")
        parts: list[Tensor] = []
        vectors: tuple[Tensor, ...] = ()
        for at in range(0, len(images), batch_size):
            pixels = split.gather(images[at : at + batch_size], None, "centre", False)
            if digest is not None:
                digest.add(pixels)
            if kind == "none":
                parts.append(torch.zeros(len(pixels), 1, 1, 1, dtype=torch.int32))
                continue
            latent = tokenizer.encode_latent(to_float(pixels).to(device))
            if kind == "latents":
                parts.append(latent.float().cpu())
                continue
            quantized: Quantized = tokenizer.quantizer(latent, 1.0)
            parts.append(quantized.indices.int().cpu())
            vectors = vectors or tuple(part.detach().float() for part in quantized.vectors)
        return cls(tokenizer, torch.cat(parts), vectors, kind, order.reshape(-1))

    def __len__(self) -> int:
        return len(self.values) if self.order is None else len(self.order)

    @property
    def space(self) -> CodeSpace:
        """What a head is built for."""
        tokenizer, codes = self.tokenizer, bool(self.vectors)
        dims = tokenizer.code_dims if codes else ()
        return CodeSpace(tokenizer.grid, tokenizer.config.quantizer.dim, tokenizer.num_codes, codes, dims)

    def exchanged(self, others: Int64[np.ndarray, " m"]) -> FrozenInputs:
        """The same examples, example i with the input of example `others[i]`."""
        order = np.arange(len(self.values)) if self.order is None else self.order
        return replace(self, order=order[others])

    def rows(self, rows: Sequence[int] | Int64[np.ndarray, " b"]) -> Tensor:
        """The values of some examples, on the CPU: int64 codes, or float32 latents."""
        numbers = np.array(rows, dtype=np.int64)
        found = self.values[torch.from_numpy(numbers if self.order is None else self.order[numbers])]
        return found if self.kind == "latents" else found.long()

    def batch(self, rows: Sequence[int] | Int64[np.ndarray, " b"]) -> Quantized:
        """What the head sees of some examples, on the tokenizer's device."""
        return self.quantized(self.rows(rows).to(self.tokenizer.device))

    @torch.no_grad()
    def quantized(self, values: Tensor) -> Quantized:
        """What the head sees for values of `rows`, on their device; the loss is 0.

        For other inputs than codes `z_q` is the latent or zeros, and the indices are zeros.
        """
        zero = torch.zeros((), device=values.device)
        if self.kind == "codes":
            return Quantized(self.tokenizer.quantizer.decode(values), values, zero, {}, self.vectors)
        (height, width), space = self.tokenizer.grid, self.space
        none = torch.zeros(
            len(values), len(space.num_codes), height, width, dtype=torch.int64, device=values.device
        )
        latent = (
            values
            if self.kind == "latents"
            else torch.zeros(len(values), space.dim, height, width, device=values.device)
        )
        return Quantized(latent, none, zero, {}, ())


def other_examples(count: int, seed: int) -> Int64[np.ndarray, " n"]:
    """For each example another one: all are on one cycle, whose order is drawn, as neighbours are often alike."""
    order = numpy_rng(seed, "other images").permutation(count)
    others = np.empty(count, dtype=np.int64)
    others[order] = np.roll(order, -1)
    return others
