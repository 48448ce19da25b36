"""What a head sees of images: their frozen codes, or what those are compared with.

Letters: n images, m examples, b batch, g groups, d dimension of the latent, h w its grid, r side of the images in
pixels, K codes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from vqpipe.codebooks.search import nearest
from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.metrics.floors import (
    FloorsParams,
    PatchKmeans,
    draw_patch_positions,
    fit_patch_kmeans,
    other_examples,
    to_patches,
)
from vqpipe.metrics.measured import ImagesDigest
from vqpipe.quantizers.contract import Quantized
from vqpipe.runtime.preflight import need_memory
from vqpipe.runtime.seeds import derive, numpy_rng
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import Clip, StoredClip, network_of

Input = Literal["codes", "latents", "none", "clip", "patches"]
"""`codes`: the quantised latent and its indices. `latents`: the latent before quantisation, which shows what the
quantiser lost. `none`: zeros in its place, which shows what the task's other inputs give away. `clip`: the dense
features of the run's CLIP on its own grid. `patches`: k-means codes of the raw pixels of each cell of the token grid,
at the tokenizer's bits."""


@dataclass(frozen=True)
class CodeSpace:
    """What a head needs to know of its input before it sees any."""

    grid: tuple[int, int]
    """h and w."""
    dim: int
    """d."""
    num_codes: tuple[int, ...]
    """K per group; empty where the input has no codes."""
    has_vectors: bool
    """Whether `Quantized.vectors` has the code vectors of each group."""
    code_dims: tuple[int, ...]
    """Dimension of each group's code vectors where the method trains them by gradient; else empty."""

    @property
    def num_positions(self) -> int:
        """h w."""
        return self.grid[0] * self.grid[1]


class View(ABC):
    """One kind of input: it makes values of images, once each, and of values what a head sees. Neither has a gradient.

    Args:
        tokenizer: in eval mode, on its device.
    """

    kind: ClassVar[Input]

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @property
    def name(self) -> str:
        """What it is called in the metrics."""
        return self.kind

    @property
    def space(self) -> CodeSpace:
        """What a head is built for."""
        return CodeSpace(self.tokenizer.grid, self.tokenizer.config.quantizer.dim, (), False, ())

    @property
    def image_bytes(self) -> int:
        """Memory of the values of one image."""
        space = self.space
        return 4 * space.dim * space.num_positions

    @abstractmethod
    def values(self, pixels: UInt8[Tensor, "b 3 r r"]) -> Tensor:
        """What is kept of images on the CPU: int32 (b, g, h, w) codes, or float32 (b, d, h, w)."""

    def quantized(self, values: Tensor) -> Quantized:
        """What the head sees for values, on the tokenizer's device: `z_q` (b, d, h, w); the loss is 0.

        For other inputs than codes the indices are zeros.
        """
        none = torch.zeros(len(values), 1, *self.space.grid, dtype=torch.int64, device=values.device)
        return Quantized(values, none, torch.zeros((), device=values.device), {}, ())


class Codes(View):
    """The quantised latent of a tokenizer and its indices."""

    kind = "codes"

    def __init__(
        self, tokenizer: Tokenizer, vectors: tuple[Float[Tensor, "K dg"], ...] | None = None
    ) -> None:
        super().__init__(tokenizer)
        self._vectors = vectors

    @property
    def vectors(self) -> tuple[Float[Tensor, "K dg"], ...]:
        """Per group, the code vectors; empty for methods that have none."""
        if self._vectors is None:
            (height, width), space = self.tokenizer.grid, self.tokenizer.config.quantizer.dim
            blank = torch.zeros(1, space, height, width, device=self.tokenizer.device)
            found: Quantized = self.tokenizer.quantizer(blank, 1.0)
            self._vectors = tuple(part.detach().float() for part in found.vectors)
        return self._vectors

    @property
    def space(self) -> CodeSpace:
        tokenizer, has = self.tokenizer, bool(self.vectors)
        dims = tokenizer.code_dims if has else ()
        return CodeSpace(tokenizer.grid, tokenizer.config.quantizer.dim, tokenizer.num_codes, has, dims)

    @property
    def image_bytes(self) -> int:
        return 4 * self.tokenizer.groups * self.space.num_positions

    def values(self, pixels: UInt8[Tensor, "b 3 r r"]) -> Tensor:
        latent = self.tokenizer.encode_latent(to_float(pixels).to(self.tokenizer.device))
        return self.tokenizer.quantizer(latent, 1.0).indices.int().cpu()

    def quantized(self, values: Tensor) -> Quantized:
        zero = torch.zeros((), device=values.device)
        return Quantized(self.tokenizer.quantizer.decode(values), values, zero, {}, self.vectors)


class Latents(View):
    """The latent before quantisation."""

    kind = "latents"

    def values(self, pixels: UInt8[Tensor, "b 3 r r"]) -> Tensor:
        return self.tokenizer.encode_latent(to_float(pixels).to(self.tokenizer.device)).float().cpu()


class Nothing(View):
    """Zeros in the place of the latent."""

    kind = "none"

    @property
    def image_bytes(self) -> int:
        return 4

    def values(self, pixels: UInt8[Tensor, "b 3 r r"]) -> Tensor:
        return torch.zeros(len(pixels), 1, 1, 1)

    def quantized(self, values: Tensor) -> Quantized:
        space = self.space
        return super().quantized(values.expand(-1, space.dim, *space.grid))


class ClipFeatures(View):
    """The dense features of a CLIP after its last norm, on the grid of its patches."""

    kind = "clip"

    def __init__(self, tokenizer: Tokenizer, clip: Clip) -> None:
        super().__init__(tokenizer)
        self.clip = clip

    @property
    def space(self) -> CodeSpace:
        return CodeSpace(self.clip.patch_grid, self.clip.patch_dim, (), False, ())

    def values(self, pixels: UInt8[Tensor, "b 3 r r"]) -> Tensor:
        features = self.clip.patch_features(to_float(pixels).to(self.tokenizer.device), projected=False)
        return features.permute(0, 3, 1, 2).float().cpu().contiguous()


class PatchCodes(View):
    """k-means codes of raw patches, one of each cell of the token grid; `z_q` is the centroid, levels in [-1, 1]."""

    kind = "patches"

    def __init__(self, tokenizer: Tokenizer, codebook: PatchKmeans) -> None:
        super().__init__(tokenizer)
        self.codebook = codebook
        self._centroids = codebook.centroids.to(tokenizer.device)

    @classmethod
    def fit(cls, tokenizer: Tokenizer, split: ImageSplit, params: FloorsParams, seed: int) -> PatchCodes:
        """Fit the codebook to patches of training images: K is the product of the tokenizer's, or capped as in
        `fit_patch_kmeans`; the name then ends in `_capped`.

        Raises:
            MismatchError: the token grid does not divide the images.
        """
        grid, draws = tokenizer.grid, numpy_rng(seed, "task", "patches")
        images, cells = draw_patch_positions(len(split), grid, params.num_patches, draws)
        parts = []
        for at in range(0, len(images), PATCHES):
            own, cell = images[at : at + PATCHES], cells[at : at + PATCHES]
            distinct, where = np.unique(own, return_inverse=True)
            cut = to_patches(split.gather(distinct, None, "centre", False), grid)
            parts.append(cut[torch.from_numpy(where), torch.from_numpy(cell)])
        found = fit_patch_kmeans(
            torch.cat(parts), tokenizer.num_codes, grid, num_iterations=params.num_iterations,
            max_num_codes=params.max_num_codes, seed=derive(seed, "task", "k-means"), device=tokenizer.device,
        )  # fmt: skip
        return cls(tokenizer, found)

    @property
    def name(self) -> str:
        return self.codebook.name

    @property
    def space(self) -> CodeSpace:
        count, dim = self.codebook.centroids.shape
        return CodeSpace(self.codebook.grid, dim, (count,), False, ())

    @property
    def image_bytes(self) -> int:
        return 4 * self.space.num_positions

    def values(self, pixels: UInt8[Tensor, "b 3 r r"]) -> Tensor:
        patches = to_patches(pixels, self.codebook.grid)
        flat = patches.reshape(-1, patches.shape[-1]).float().to(self.tokenizer.device)
        return nearest(flat, self._centroids).reshape(len(pixels), 1, *self.codebook.grid).int().cpu()

    def quantized(self, values: Tensor) -> Quantized:
        latent = (self._centroids[values[:, 0]] / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
        return Quantized(latent, values, torch.zeros((), device=values.device), {}, ())


PATCHES = 65_536
"""Patches whose images are in memory at once while they are drawn."""


def view_of(kind: Input, tokenizer: Tokenizer, clip: Clip | StoredClip) -> View:
    """What a head sees of images, for inputs that nothing is fitted for: all but `patches`.

    Args:
        tokenizer: in eval mode, on its device.
        clip: the run's CLIP, on the same device.
    """
    if kind == "clip":
        return ClipFeatures(tokenizer, network_of(clip))
    return {"codes": Codes, "latents": Latents, "none": Nothing}[kind](tokenizer)


@dataclass(frozen=True)
class FrozenInputs:
    """The input of a head for some examples; nothing has a gradient. Values are computed once per image."""

    view: View
    """What it is."""
    values: Tensor
    """As `View.values`, of n images."""
    order: Int64[np.ndarray, " m"] | None = None
    """The row of `values` of each example; None for one row per example, in order."""

    @classmethod
    @torch.no_grad()
    def encode(
        cls,
        view: View,
        split: ImageSplit,
        positions: Int64[np.ndarray, " m"],
        batch_size: int,
        digest: ImagesDigest | None = None,
    ) -> FrozenInputs:
        """The input for examples of a split; centre crops, each image once.

        Args:
            view: what the head sees.
            positions: the image of each example, by its place in the split; at least one.
            batch_size: images per pass.
            digest: takes the images too.

        Raises:
            SetupError: the values of all images do not fit in memory.
        """
        images, order = np.unique(positions, return_inverse=True)
        need_memory(2 * view.image_bytes * len(images), f"the {view.kind} of {len(images):,} images")
        parts = []
        for at in range(0, len(images), batch_size):
            pixels = split.gather(images[at : at + batch_size], None, "centre", False)
            if digest is not None:
                digest.add(pixels)
            parts.append(view.values(pixels))
        return cls(view, torch.cat(parts), order.reshape(-1))

    def __len__(self) -> int:
        return len(self.values) if self.order is None else len(self.order)

    @property
    def space(self) -> CodeSpace:
        """What a head is built for."""
        return self.view.space

    def exchanged(self, others: Int64[np.ndarray, " m"]) -> FrozenInputs:
        """The same examples, example i with the input of example `others[i]`."""
        return replace(self, order=self._rows()[others])

    def of_other_images(self, seed: int) -> FrozenInputs:
        """The same examples, each with the input of another image: which one is drawn by the seed."""
        return replace(self, order=other_examples(len(self.values), seed)[self._rows()])

    def _rows(self) -> Int64[np.ndarray, " m"]:
        return np.arange(len(self.values)) if self.order is None else self.order

    def rows(self, rows: Sequence[int] | Int64[np.ndarray, " b"]) -> Tensor:
        """The values of some examples, on the CPU: int64 codes, or float32."""
        numbers = np.array(rows, dtype=np.int64)
        found = self.values[torch.from_numpy(numbers if self.order is None else self.order[numbers])]
        return found if found.is_floating_point() else found.long()

    def batch(self, rows: Sequence[int] | Int64[np.ndarray, " b"]) -> Quantized:
        """What the head sees of some examples, on the tokenizer's device."""
        return self.quantized(self.rows(rows).to(self.view.tokenizer.device))

    @torch.no_grad()
    def quantized(self, values: Tensor) -> Quantized:
        """What the head sees for values of `rows`, on their device."""
        return self.view.quantized(values)
