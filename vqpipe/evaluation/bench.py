"""Several tokenizers measured on the same images under one protocol: quality, bits, use of the codes, speed, damage.

Images pass once, in batches: each batch goes through every tokenizer, so that features of the originals are computed
once. The numbers are those that `vqpipe.evaluation.measure` gives, and equal for any batch size to rounding; only
`SpeedMetrics` differs between two runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    Images,
    MetricNetworks,
    ReconstructionErrors,
    batch_errors,
    decode_to_uint8,
)
from vqpipe.evaluation.speed import SpeedMetrics, measure_speed
from vqpipe.metrics.codes import CodeUsage, UsageMetrics, bits_per_image, usage_metrics
from vqpipe.metrics.distances import feature_distances, why_no_distances
from vqpipe.metrics.images import PEAK, PSNR_IDENTICAL
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
    def of(cls, tokenizer: Tokenizer) -> PartSizes:
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
class _Tally:
    """What is kept of one tokenizer, batch by batch."""

    errors: ReconstructionErrors
    usage: CodeUsage
    text: list[list[int]] = field(default_factory=list)
    faces: list[FoundFaces] = field(default_factory=list)


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
    """
    if not len(images):
        raise DataError("there are no images to measure on")
    config = folder_params(len(images), 0)
    missing = list(left_out)
    reason = None
    if networks.features is not None:
        reason = why_no_distances(len(images), networks.features, config.distances)
        if reason is not None:
            missing.append(f"{', '.join(sorted(networks.features.names.values()))}: {reason}")
    with_sets = networks.features is not None and reason is None
    first = to_float(images.take(np.arange(min(batch_size, len(images))))).to(networks.device)
    speed = [_named(one, lambda one=one: measure_speed(one.model, first, repeats)) for one in candidates]  # type: ignore[misc]
    dim = networks.features.dim if networks.features is not None and with_sets else 0
    picked = np.ones(len(images), dtype=bool)
    originals = ReconstructionErrors(picked, dim)
    tallies = [
        _Tally(ReconstructionErrors(picked, dim), CodeUsage(one.model.num_codes)) for one in candidates
    ]
    digest, texts, faces = ImagesDigest(), list[list[Line]](), list[Faces]()
    batches = slices(len(images), batch_size)
    with progress_bar("bench", len(images)) as bar:
        for batch in read_ahead(lambda rows: images.take(np.arange(rows.start, rows.stop)), batches):
            digest.add(batch)
            pictures = _pictures(batch)
            text_here = [probes.text.reference(one) for one in pictures] if probes.text else []
            faces_here = [probes.faces.reference(one) for one in pictures] if probes.faces else []
            pixels = batch.to(networks.device)
            features = networks.features_of(pixels, with_sets)
            originals.add(BatchErrors({}, features.for_sets))
            for one, tally in zip(candidates, tallies, strict=True):
                indices = _named(one, lambda one=one: one.model.encode(to_float(pixels)))  # type: ignore[misc]
                again = _named(one, lambda one=one, at=indices: decode_to_uint8(one.model, at))  # type: ignore[misc]
                found = batch_errors(networks, pixels, features, again)
                luma = {"psnr_y": psnr_y(pixels, again)}
                tally.errors.add(BatchErrors({**found.errors, **luma}, found.for_sets))
                tally.usage.add(indices.cpu())
                made = _pictures(again)
                if probes.text:
                    tally.text += map(probes.text.compare, text_here, made)
                if probes.faces:
                    tally.faces += map(probes.faces.compare, faces_here, made)
            texts += text_here
            faces += faces_here
            bar.advance(len(batch))
    rows = []
    for one, tally, times in zip(candidates, tallies, speed, strict=True):
        own: dict[str, Any] = {
            **intervals(tally.errors.table(), config.num_bootstrap, derive(config.seed, "bootstrap"))
        }
        if networks.features is not None and with_sets:
            own |= feature_distances(
                tally.errors.features.rows, originals.features.rows, networks.features, config.distances
            )
        own["text"] = probes.text.summary(texts, tally.text) if probes.text else None
        own["faces"] = probes.faces.summary(faces, tally.faces) if probes.faces else None
        rows.append(TokenizerBench(**own, **_facts(one, tally.usage), speed=times))
    return TokenizersBench(
        protocol=BenchProtocol(
            folder=folder, num_images=len(images), resolution=candidates[0].resolution,
            crop="shorter side scaled to the resolution (Lanczos, antialiased), centre cut out",
            perceptual=networks.perceptual.source if networks.perceptual is not None else "none",
            features=networks.features.source if networks.features is not None and with_sets else "none",
            num_bootstrap=config.num_bootstrap,
        ),
        measured=_record(digest, config, networks, with_sets, probes),
        tokenizers=rows, left_out=missing, left_out_files=dict(left_out_files or {}),
    )  # fmt: skip


def _facts(one: Candidate, usage: CodeUsage) -> dict[str, Any]:
    """What does not depend on the quality of reconstructions."""
    model, grid = one.model, one.grid
    names = [book.group for book in model.codebooks()] or [f"group {at}" for at in range(model.groups)]
    bits = bits_per_image(model.num_codes, grid)
    return {
        "name": one.name, "sha256": one.sha256, "quantizer": model.config.quantizer.kind,
        "trained_resolution": model.resolution, "grid": f"{grid[0]} x {grid[1]}", "groups": model.groups,
        "bits_per_image": bits, "bits_per_pixel": bits / one.resolution**2, "sizes": PartSizes.of(model),
        "codes": {name: usage_metrics(counts) for name, counts in zip(names, usage.counts, strict=True)},
    }  # fmt: skip


def _record(
    digest: ImagesDigest, config: EvaluateParams, networks: MetricNetworks, with_sets: bool, probes: Probes
) -> Measured:
    """The digests; batch size and speed do not count."""
    protocol: dict[str, Any] = {
        "version": PROTOCOL, "crop": "centre", "num_bootstrap": config.num_bootstrap, "seed": config.seed,
        "perceptual": networks.perceptual.source if networks.perceptual is not None else "none",
        "features": networks.features.source if networks.features is not None and with_sets else "none",
        "text": probes.text.reader.name if probes.text else "none",
        "faces": f"{probes.faces.finder.name}, {probes.faces.finder.embedding}" if probes.faces else "none",
    }  # fmt: skip
    if with_sets:
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
    mse = error.square().flatten(1).mean(1).cpu().numpy()
    with np.errstate(divide="ignore"):
        values = 10.0 * np.log10(PEAK**2 / mse)
    return np.where(mse > 0, values, PSNR_IDENTICAL)


def _pictures(images: UInt8[Tensor, "b 3 h w"]) -> list[np.ndarray]:
    return list(images.permute(0, 2, 3, 1).cpu().numpy())


def _named(one: Candidate, call: Any) -> Any:
    """The result of a call; an error names the tokenizer."""
    try:
        return call()
    except VqpipeError as error:
        raise type(error)([f"{one.name}: {error}".splitlines()[0], *str(error).splitlines()[1:]]) from error
