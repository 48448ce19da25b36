"""What a prior sees of a split: its images as tokens or latents, and what is known about each.

Letters: n images, b batch, g groups, h w the token grid, c channels of the latent, l text tokens, r side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vqpipe.data.annotations import LabelMaps
from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.priors import PRIORS
from vqpipe.priors.contract import NO_LABEL, Batch, Condition, PriorParams, deviations
from vqpipe.priors.text import TextEncoder
from vqpipe.runtime.batches import slices
from vqpipe.runtime.seeds import derive, numpy_rng
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.tokens import TokenSplit

KEPT_BYTES = 256 << 20
"""Most memory for the latents of the training images, and for the features of their captions."""
IMAGES_AT_ONCE, TEXTS_AT_ONCE, MAPS_AT_ONCE = 64, 256, 256
"""Encoded or decoded at once; fixed, so that what is kept does not depend on the training's batches."""
CONSTANT = 1e-6
"""Deviation up to which a channel of the latent is constant, and is not divided by it."""


class KeptTexts(TextEncoder):
    """Features of texts that are known beforehand, computed once in fixed batches and kept on the CPU.

    Args:
        encoder: gives the features; other texts are left to it.
        texts: different ones.
    """

    def __init__(self, encoder: TextEncoder, texts: Sequence[str]) -> None:
        self._encoder, self.id, self.dim, self.length = encoder, encoder.id, encoder.dim, encoder.length
        self._places = {text: at for at, text in enumerate(texts)}
        parts = [encoder.encode(texts[rows]) for rows in slices(len(texts), TEXTS_AT_ONCE)]
        self._features, self._ids = (torch.cat([own[at].cpu() for own in parts]) for at in range(2))

    def encode(self, texts: Sequence[str]) -> tuple[Float[Tensor, "n l d"], Int64[Tensor, "n l"]]:
        if not all(text in self._places for text in texts):
            return self._encoder.encode(texts)
        rows = torch.tensor([self._places[text] for text in texts], dtype=torch.int64)
        return self._features[rows], self._ids[rows]

    def num_tokens(self, text: str) -> int:
        return self._encoder.num_tokens(text)


def some(of: int, count: int, seed: int, what: str) -> Int64[np.ndarray, " n"]:
    """`count` of `of` rows, or all of them, drawn without replacement and rising.

    In a split that is ordered by class, the first rows, and the first of a rising draw, are of a few classes only; a
    part of drawn rows is therefore drawn again.

    Args:
        what: names the draw; equal names and numbers give equal rows.
    """
    return np.sort(numpy_rng(seed, "prior", what).permutation(of)[:count])


@dataclass(frozen=True)
class Asked:
    """Some images of a split as conditions of samples; `captions` are the texts that were encoded, "" for none."""

    rows: Int64[np.ndarray, " n"]
    condition: Condition
    captions: list[str]

    @property
    def labels(self) -> Int64[Tensor, " n"]:
        """The classes, -1 for none."""
        return (
            self.condition.labels if self.condition.labels is not None else torch.full((len(self.rows),), -1)
        )


@dataclass(frozen=True)
class Examples:
    """The images of one split as a prior models them, with their conditions.

    Args:
        tokens: codes and labels.
        images: pixels and captions in the same order; pixels are only read for priors over latents.
        tokenizer: encodes pixels to latents, on its device and in eval mode.
        config: the prior's params.
        text: encodes captions; None unless the condition is `text`.
        maps: None unless the condition is `label_map`.
        latent_std: standard deviation of each channel of the latent, by which it is divided.
        kept_latents: the latents of all images, float32 (n, c, h, w) on the CPU, not divided; None where they are
            encoded when they are asked for.
    """

    tokens: TokenSplit
    images: ImageSplit
    tokenizer: Tokenizer
    config: PriorParams
    text: TextEncoder | None = None
    maps: LabelMaps | None = None
    latent_std: tuple[float, ...] = ()
    kept_latents: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: slice | Int64[np.ndarray, " b"], step: int | None = None) -> Batch:
        """Tokens (b, g, h, w) on the CPU, or latents (b, c, h, w) on the tokenizer's device; conditions of the same
        images. Of several captions a training step draws one, measurements (`step` None) take the first."""
        chosen = np.arange(len(self))[rows]
        condition = self.conditions(chosen, step).condition
        if PRIORS[self.config.kind].models == "tokens":
            return self.tokens.batch(chosen)[0], condition
        return self.latents(chosen) / deviations(self.latent_std, self.tokenizer.device), condition

    def conditions(self, rows: Int64[np.ndarray, " b"], step: int | None = None) -> Asked:
        """What the prior is given about some images."""
        if self.config.condition == "class":
            return Asked(rows, Condition(labels=self.tokens.labels[torch.from_numpy(rows)]), [""] * len(rows))
        if self.text is not None:
            captions = self._captions(rows, step)
            features, ids = self.text.encode(captions)
            return Asked(rows, Condition(text=features, text_ids=ids), captions)
        if self.maps is not None:
            return Asked(rows, Condition(label_map=self.maps.get(rows.tolist())), [""] * len(rows))
        return Asked(rows, Condition(), [""] * len(rows))

    def with_kept_texts(self) -> Examples:
        """The same, with the features of all captions in memory, where there is a text encoder and `KEPT_BYTES` are
        enough: a frozen encoder need not run at every step."""
        texts = [
            text for text in dict.fromkeys(chain([""], *self.images.captions)) if text.strip() or not text
        ]
        if self.text is None or 4 * len(texts) * self.text.length * self.text.dim > KEPT_BYTES:
            return self
        return replace(self, text=KeptTexts(self.text, texts))

    def first_captions(self, rows: Int64[np.ndarray, " b"]) -> list[str]:
        """The caption that measurements take of each image, "" for one without."""
        return self._captions(rows, None)

    def drawn(self, count: int, what: str) -> Int64[np.ndarray, " n"]:
        """`some` of this split's images, by the params' seed."""
        return some(len(self), count, self.config.seed, what)

    def batches(self, rows: Int64[np.ndarray, " n"]) -> Iterator[Batch]:
        """Some images in this order, in batches of the training's length."""
        return (self.batch(rows[at]) for at in slices(len(rows), self.config.training.batch_size))

    def codes(self, rows: Int64[np.ndarray, " n"]) -> Int64[Tensor, "n g h w"]:
        """The codes of some images."""
        return self.tokens.batch(rows)[0]

    @cached_property
    def without_condition(self) -> Bool[np.ndarray, " n"]:
        """Which images lack the condition that the params name: a label, a caption, or a map of which a pixel is known.

        Raises:
            MismatchError: a map that is smaller than the images, or with a pixel of an unknown class.
        """
        count = len(self)
        match self.config.condition:
            case "class":
                return (self.tokens.labels == NO_LABEL).numpy()
            case "text":
                return np.array(
                    [not any(text.strip() for text in own) for own in self.images.captions[:count]]
                )
            case "label_map":
                assert self.maps is not None, "maps are opened with the condition"
                parts = (self.maps.get(range(rows.start, rows.stop)) for rows in slices(count, MAPS_AT_ONCE))
                return np.concatenate([(part < 0).flatten(1).all(dim=1).numpy() for part in parts])
        return np.zeros(count, dtype=bool)

    def num_cut(self) -> int:
        """Captions longer than the text encoder reads; 0 without one."""
        if self.text is None:
            return 0
        lengths = {
            text: self.text.num_tokens(text) for own in self.images.captions[: len(self)] for text in own
        }
        return sum(
            lengths[text] > self.text.length for own in self.images.captions[: len(self)] for text in own
        )

    @torch.no_grad()
    def latents(self, rows: Int64[np.ndarray, " b"]) -> Float[Tensor, "b c h w"]:
        """Latents before quantisation as the tokenizer makes them, float32, on its device."""
        if self.kept_latents is not None:
            return self.kept_latents[torch.from_numpy(rows)].to(self.tokenizer.device)
        pixels = self.images.gather(rows, None, "centre", False)
        return self.tokenizer.encode_latent(to_float(pixels).to(self.tokenizer.device)).float()

    def measured_latents(self) -> tuple[tuple[float, ...], Tensor | None]:
        """Standard deviation of each channel of the latent over all images and positions, 1 for a channel that is
        constant, and the latents themselves where they are no more than `KEPT_BYTES`; images pass in batches."""
        count, total, square, kept = 0, torch.zeros(()), torch.zeros(()), None
        for rows in slices(len(self), IMAGES_AT_ONCE):
            own = self.latents(np.arange(rows.start, rows.stop)).cpu()
            if count == 0 and 4 * own[0].numel() * len(self) <= KEPT_BYTES:
                kept = torch.empty(len(self), *own.shape[1:])
            if kept is not None:
                kept[rows] = own
            channels = own.double().transpose(0, 1).flatten(1)
            count += channels.shape[1]
            total, square = total + channels.sum(1), square + channels.square().sum(1)
        mean = total / count
        std = (square / count - mean.square()).clamp_min(0).sqrt()
        return tuple(torch.where(std > CONSTANT, std, 1.0).tolist()), kept

    def _captions(self, rows: Int64[np.ndarray, " b"], step: int | None) -> list[str]:
        """A caption of each image, "" for one without: the first, or at a training step one that depends on the seed,
        the step and the image."""
        own = [[text for text in self.images.captions[row] if text.strip()] or [""] for row in rows.tolist()]
        if step is None:
            return [texts[0] for texts in own]
        seed = derive(self.config.seed, "prior", "captions", step)
        # Each image has its place in the stream of the step; the numbers of other images are not drawn.
        streams = [np.random.Generator(np.random.PCG64(seed).advance(row)) for row in rows.tolist()]
        return [texts[int(draws.random() * len(texts))] for draws, texts in zip(streams, own, strict=True)]


def scaled(examples: Mapping[str, Examples]) -> dict[str, Examples]:
    """The examples of all splits, their latents divided by the deviations of the training split's."""
    std, kept = examples["train"].measured_latents()
    found = {name: replace(own, latent_std=std) for name, own in examples.items()}
    return {**found, "train": replace(found["train"], kept_latents=kept)}
