"""Several tokenizers measured on the same images under one protocol: quality, bits, use of the codes, speed, damage.

Images pass once, in batches: each batch goes through every tokenizer, so that features of the originals are computed
once. The numbers are those that `vqpipe.evaluation.measure` gives, and equal for any batch size to rounding; only
`SpeedMetrics` differs between two runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from vqpipe.artifacts.metrics import Metrics
from vqpipe.data.loader import to_float
from vqpipe.errors import DataError, VqpipeError
from vqpipe.evaluation.damage import FaceDamage, FaceProbe, Faces, FoundFaces, Line, TextDamage, TextProbe
from vqpipe.evaluation.evaluate import folder_params
from vqpipe.evaluation.measure import EvaluateParams, ReconstructionMetrics
from vqpipe.evaluation.reconstructions import (
    BatchErrors,
    BatchFeatures,
    Images,
    MetricNetworks,
    ReconstructionErrors,
    batch_errors,
    decode_to_uint8,
)
from vqpipe.evaluation.speed import SpeedMetrics, measure_speed
from vqpipe.metrics.codes import CodeUsage, UsageMetrics, bits_per_image, usage_metrics
from vqpipe.metrics.distances import Features, feature_distances, why_no_distances
from vqpipe.metrics.images import psnr_of
from vqpipe.metrics.measured import ImagesDigest, Interval, Measured, intervals, measured_with
from vqpipe.runtime.batches import read_ahead, slices
from vqpipe.runtime.seeds import derive
from vqpipe.runtime.terminal import progress_bar
from vqpipe.tokenizers.tokenizer import Tokenizer

PROTOCOL = 1
"""Number of the protocol in the code: raise it when a change alters what a number means."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in Y of ITU-R BT.601."""
SPLIT = "images"
"""Name of the images in the record."""


class PartSizes(Metrics):
    """Trained and frozen numbers of a tokenizer by part."""

    encoder: int
    """Parameters of the encoder and the 1x1 convolution after it."""
    quantizer: int
    """Parameters of the quantizer, codes that take gradients among them."""
    quantizer_buffers: int
    """Floating-point numbers that the quantizer stores and no gradient changes: frozen codes, and codes and counters of
    moving averages."""
    decoder: int
    """Parameters of the decoder and the 1x1 convolution before it."""

    @classmethod
    def count(cls, tokenizer: Tokenizer) -> PartSizes:
        """Count the numbers of a tokenizer."""
        trained = {name for name, _ in tokenizer.quantizer.named_parameters()}
        stored = tokenizer.quantizer.state_dict()
        return cls(
            encoder=_count(tokenizer.encoder) + _count(tokenizer.quant_conv),
            quantizer=_count(tokenizer.quantizer),
            quantizer_buffers=sum(
                value.numel()
                for name, value in stored.items()
                if name not in trained and value.is_floating_point()
            ),
            decoder=_count(tokenizer.decoder) + _count(tokenizer.post_quant_conv),
        )


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class TokenizerBench(ReconstructionMetrics):
    """What was measured of one tokenizer."""

    name: str
    """What the table calls it."""
    sha256: str
    """Digest of the params of trunk and quantizer and of all weights."""
    quantizer: str
    """Its kind."""
    trained_resolution: int
    """Side in pixels of the images that it was trained on; `protocol.resolution` is that of the measurement."""
    grid: str
    """Rows x columns of positions at the resolution of the measurement."""
    groups: int
    """Indices at each position."""
    bits_per_pixel: float
    """`bits_per_image` over the pixels of an image."""
    psnr_y: Interval
    """PSNR of Y alone, in dB, peak 255; see `psnr_y`. Higher is better."""
    codes: dict[str, UsageMetrics]
    """Use of the codes over all images, by group."""
    sizes: PartSizes
    """Parameters by part."""
    text: TextDamage | None = None
    """None where it was not asked for, or no reader is installed."""
    faces: FaceDamage | None = None
    """None where it was not asked for, or no detector is installed."""
    speed: SpeedMetrics
    """Time and memory; the only numbers that differ between two runs."""


class BenchProtocol(Metrics):
    """How all tokenizers were measured, for reading; `Measured` has the digest."""

    folder: str
    """Name of the folder of images."""
    num_images: int
    """Images that were measured."""
    resolution: int
    """Side in pixels of the images that every tokenizer encoded."""
    crop: str
    """How images become squares."""
    perceptual: str
    """Name of the perceptual distance and its network, or `none`."""
    features: str
    """The network of the distances between sets, or `none`."""
    num_bootstrap: int
    """Resamples of each interval."""


class TokenizersBench(Metrics):
    """What `vqpipe bench-tokenizers` measures."""

    protocol: BenchProtocol
    """How it was measured."""
    measured: Measured
    """Digests of the images and the protocol: two files with equal ones can be compared."""
    tokenizers: list[TokenizerBench]
    """In the order in which they were given."""
    left_out: list[str]
    """What was not measured, and what would add it."""
    left_out_files: dict[str, int]
    """Files of the folder that are not usable images, by reason."""


@dataclass(frozen=True)
class Candidate:
    """A tokenizer at the resolution of the measurement; it encodes and decodes images of any fitting side."""

    name: str
    model: Tokenizer
    sha256: str
    resolution: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of positions."""
        side = self.resolution // self.model.config.trunk.downsampling
        return side, side


@dataclass(frozen=True)
class Probes:
    """What reads text and finds faces, where that is measured."""

    text: TextProbe | None = None
    faces: FaceProbe | None = None


@dataclass
class _Batch:
    """A batch of originals and what every tokenizer is compared with."""

    pixels: UInt8[Tensor, "b 3 h w"]
    features: BatchFeatures
    lines: list[list[Line]]
    """By image; empty where text is not measured."""
    faces: list[Faces]
    """By image; empty where faces are not measured."""


class _Tally:
    """What is kept of one tokenizer, batch by batch."""

    def __init__(self, one: Candidate, num_images: int, dim: int) -> None:
        self.one = one
        self.errors = ReconstructionErrors(np.ones(num_images, dtype=bool), dim)
        self.usage = CodeUsage(one.model.num_codes)
        self.text, self.faces = list[list[int]](), list[FoundFaces]()

    def add(self, batch: _Batch, networks: MetricNetworks, probes: Probes) -> None:
        """Encode, decode and measure the next images."""
        with _naming(self.one.name):
            indices = self.one.model.encode(to_float(batch.pixels))
            again = decode_to_uint8(self.one.model, indices)
        found = batch_errors(networks, batch.pixels, batch.features, again)
        self.errors.add(BatchErrors({**found.errors, "psnr_y": psnr_y(batch.pixels, again)}, found.for_sets))
        self.usage.add(indices.cpu())
        pictures = _pictures(again)
        if probes.text:
            self.text += map(probes.text.compare, batch.lines, pictures)
        if probes.faces:
            self.faces += map(probes.faces.compare, batch.faces, pictures)


class _Originals:
    """What is kept of the originals, batch by batch."""

    def __init__(self, num_images: int, dim: int) -> None:
        self.errors = ReconstructionErrors(np.ones(num_images, dtype=bool), dim)
        self.digest = ImagesDigest()
        self.lines, self.faces = list[list[Line]](), list[Faces]()

    def add(self, images: UInt8[Tensor, "b 3 h w"], batch: _Batch) -> None:
        """Keep the next images, as they were read, and what is known of them."""
        self.digest.add(images)
        self.errors.add(BatchErrors({}, batch.features.for_sets))
        self.lines += batch.lines
        self.faces += batch.faces


@torch.no_grad()
def bench(
    candidates: Sequence[Candidate],
    images: Images,
    folder: str,
    networks: MetricNetworks,
    probes: Probes,
    *,
    batch_size: int,
    repeats: int,
    left_out: Sequence[str] = (),
    left_out_files: Mapping[str, int] | None = None,
) -> TokenizersBench:
    """Measure tokenizers in eval mode on the networks' device.

    Args:
        images: at the candidates' resolution.
        folder: their name, for the record.
        batch_size: images encoded at once, also for the times.
        repeats: timed passes.
        left_out, left_out_files: what the caller could not measure, for the record.

    Raises:
        DataError: no images, or a decoder whose output is not finite; the message names the tokenizer.
        MismatchError: images that SSIM cannot take, or a latent that is not finite.
    """
    if not len(images):
        raise DataError("there are no images to measure on")
    config, missing = folder_params(len(images), 0), list(left_out)
    features = networks.features
    if features is not None:
        reason = why_no_distances(len(images), features, config.distances)
        if reason is not None:
            missing.append(f"{', '.join(sorted(features.names.values()))}: {reason}")
            features = None
    first = to_float(images.take(np.arange(min(batch_size, len(images))))).to(networks.device)
    speed = []
    for one in candidates:
        with _naming(one.name):
            speed.append(measure_speed(one.model, first, repeats))
    dim = features.dim if features is not None else 0
    originals = _Originals(len(images), dim)
    tallies = [_Tally(one, len(images), dim) for one in candidates]
    batches = slices(len(images), batch_size)
    with progress_bar("bench", len(images)) as bar:
        for own in read_ahead(lambda rows: images.take(np.arange(rows.start, rows.stop)), batches):
            pictures, pixels = _pictures(own), own.to(networks.device)
            batch = _Batch(
                pixels, networks.features_of(pixels, features is not None),
                [probes.text.reference(one) for one in pictures] if probes.text else [],
                [probes.faces.reference(one) for one in pictures] if probes.faces else [],
            )  # fmt: skip
            originals.add(own, batch)
            for tally in tallies:
                tally.add(batch, networks, probes)
            bar.advance(len(own))
    rows = [
        TokenizerBench(
            **_quality(tally, originals, features, config, probes),
            **_facts(tally.one, tally.usage),
            speed=times,
        )
        for tally, times in zip(tallies, speed, strict=True)
    ]
    sources = {
        "perceptual": networks.perceptual.source if networks.perceptual is not None else "none",
        "features": features.source if features is not None else "none",
    }
    return TokenizersBench(
        protocol=BenchProtocol(
            folder=folder, num_images=len(images), resolution=candidates[0].resolution,
            crop="shorter side scaled to the resolution (Lanczos, antialiased), centre cut out",
            num_bootstrap=config.num_bootstrap, **sources,
        ),
        measured=_record(originals.digest, config, sources, probes),
        tokenizers=rows, left_out=missing, left_out_files=dict(left_out_files or {}),
    )  # fmt: skip


def _quality(
    tally: _Tally, originals: _Originals, features: Features | None, config: EvaluateParams, probes: Probes
) -> dict[str, Any]:
    """What depends on the quality of reconstructions."""
    found: dict[str, Any] = {
        **intervals(tally.errors.table(), config.num_bootstrap, derive(config.seed, "bootstrap"))
    }
    if features is not None:
        own, others = tally.errors.features.rows, originals.errors.features.rows
        found |= feature_distances(own, others, features, config.distances)
    found["text"] = probes.text.summary(originals.lines, tally.text) if probes.text else None
    found["faces"] = probes.faces.summary(originals.faces, tally.faces) if probes.faces else None
    return found


def _facts(one: Candidate, usage: CodeUsage) -> dict[str, Any]:
    """What does not depend on the quality of reconstructions."""
    model, grid = one.model, one.grid
    names = [book.group for book in model.codebooks()] or [f"group {at}" for at in range(model.groups)]
    bits = bits_per_image(model.num_codes, grid)
    return {
        "name": one.name, "sha256": one.sha256, "quantizer": model.config.quantizer.kind,
        "trained_resolution": model.resolution, "grid": f"{grid[0]} x {grid[1]}", "groups": model.groups,
        "bits_per_image": bits, "bits_per_pixel": bits / one.resolution**2, "sizes": PartSizes.count(model),
        "codes": {name: usage_metrics(counts) for name, counts in zip(names, usage.counts, strict=True)},
    }  # fmt: skip


def _record(
    digest: ImagesDigest, config: EvaluateParams, sources: Mapping[str, str], probes: Probes
) -> Measured:
    """The digests; batch size and speed do not count."""
    protocol: dict[str, Any] = {
        "version": PROTOCOL, "crop": "centre", "num_bootstrap": config.num_bootstrap, "seed": config.seed, **sources,
        "text": probes.text.reader.name if probes.text else "none",
        "faces": f"{probes.faces.finder.name}, {probes.faces.finder.embedding}" if probes.faces else "none",
    }  # fmt: skip
    if sources["features"] != "none":
        protocol["distances"] = config.distances.model_dump(mode="json", exclude={"features"})
    return measured_with(digest.images(SPLIT), protocol)


def psnr_y(
    originals: UInt8[Tensor, "n 3 h w"], images: UInt8[Tensor, "n 3 h w"]
) -> Float64[np.ndarray, " n"]:
    """PSNR of each image on Y of ITU-R BT.601 in full range (as JPEG has it, not rounded), in dB, peak 255.

    Work on super-resolution often takes Y in 16..235 with the same peak of 255, as MATLAB's `rgb2ycbcr` gives it, which
    adds 20 log10(255 / 219) = 1.32 dB. An image without error in Y gets `PSNR_IDENTICAL`.
    """
    weights = torch.tensor(LUMA, dtype=torch.float64, device=originals.device)[:, None, None]
    error = ((originals.double() - images.double()) * weights).sum(1)
    return psnr_of(error.square().flatten(1).mean(1))


def _pictures(images: UInt8[Tensor, "b 3 h w"]) -> list[np.ndarray]:
    return list(images.permute(0, 2, 3, 1).cpu().numpy())


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """An error names the tokenizer that it is about."""
    try:
        yield
    except VqpipeError as error:
        raise type(error)(f"{name}: {error}".splitlines()) from error
