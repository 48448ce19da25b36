"""The measuring itself: one pass over a split that gives errors, distances and code usage, with floors and a reference.

Images pass once, in batches that the ranks take in turn; per-image numbers, indices and the features for distances are
kept on rank 0, images are not. The numbers are the same bits for any number of ranks whose torch has as many threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float64, Int, UInt8
from pydantic import ConfigDict, Field
from torch import Tensor

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.evaluation import (
    DECODED,
    EVALUATION,
    EXAMPLES,
    PER_IMAGE,
    REPLACED,
    SIMILARITY,
    TABLES,
    USAGE,
    USAGE_CURVE,
    WORDS,
)
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.data.loader import to_float
from vqpipe.errors import DataError
from vqpipe.evaluation.codes import (
    CodeHealth,
    HealthParams,
    code_columns,
    code_patches,
    curve_rows,
    decoded_rows,
    measure_codes,
    similarity_rows,
)
from vqpipe.evaluation.pictures import ExampleParams, Replacements, example_rows, replace_in_images
from vqpipe.evaluation.reconstructions import (
    BatchErrors,
    Images,
    MetricNetworks,
    ReconstructionErrors,
    TokenizerLike,
    batch_errors,
    decode_to_uint8,
)
from vqpipe.metrics import floors
from vqpipe.metrics.codes import CodeMetrics, CodeUsage, bits_per_image
from vqpipe.metrics.distances import (
    DistanceParams,
    Distances,
    FeatureRows,
    Features,
    feature_distances,
    why_no_distances,
)
from vqpipe.metrics.floors import FloorsParams
from vqpipe.metrics.images import ERRORS, PSNR_IDENTICAL
from vqpipe.metrics.measured import ImagesDigest, Interval, Measured, intervals, measured_with
from vqpipe.models.perceptual import PerceptualParams
from vqpipe.params.base import Params
from vqpipe.runtime.batches import in_turns, slices
from vqpipe.runtime.distributed import from_main, is_main
from vqpipe.runtime.seeds import derive, numpy_rng
from vqpipe.runtime.terminal import progress_bar

PROTOCOL = 1
"""Number of the protocol in the code: raise it when a change alters what a number means."""


class EvaluateParams(Params):
    """The `evaluate` section."""

    seed: Annotated[int, Field(ge=0)]
    """Seed of the bootstrap, the floors' k-means, the train halves and the random examples."""
    num_images: Annotated[int, Field(ge=1)] | None = None
    """Test images that are measured, drawn at random; null measures the whole test split."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images per forward pass; results agree to rounding for any value."""
    num_bootstrap: Annotated[int, Field(ge=100)]
    """Bootstrap resamples of each 95 % interval."""
    perceptual: PerceptualParams
    """The per-image perceptual distance."""
    distances: DistanceParams
    """The distances between sets of images."""
    floors: FloorsParams
    """The reconstructions that need no training."""
    examples: ExampleParams
    """What is kept as pictures for the report."""
    health: HealthParams | None = None
    """What is kept of the codebook's health besides its numbers; null keeps nothing."""


class ReconstructionMetrics(Distances):
    """One way to reconstruct images; errors are means over images with their intervals."""

    psnr: Interval
    """In dB, peak 255; higher is better."""
    ssim: Interval
    """In [-1, 1]; higher is better."""
    l1: Interval
    """Mean absolute error on the scale [-1, 1], so in [0, 2]; lower is better."""
    l2: Interval
    """Mean squared error on the scale [-1, 1], so in [0, 4]; lower is better."""
    clip_distance: Interval | None = None
    """Distance of CLIP activations, in [0, 4]; lower is better. One perceptual distance at most is measured."""
    lpips_alex: Interval | None = None
    """LPIPS v0.1 with AlexNet; lower is better."""
    lpips_vgg: Interval | None = None
    """LPIPS v0.1 with VGG; lower is better."""
    bits_per_image: float
    """Of a code of fixed length."""

    def perceptual(self) -> Interval | None:
        """The perceptual distance that was measured, or None; `protocol.perceptual` is its name."""
        return self.clip_distance or self.lpips_alex or self.lpips_vgg


class FloorMetrics(ReconstructionMetrics):
    """A reconstruction that needs no training."""

    num_codes: int | None = None
    """K of k-means on raw patches."""
    wanted_num_codes: int | None = None
    """K at the tokenizer's bits."""


class FloorsMetrics(Metrics):
    """The floors by name."""

    block_mean: FloorMetrics
    """Each cell of the token grid as its mean colour."""
    patch_kmeans: FloorMetrics | None = None
    """Each cell as the nearest of K patches of training images, at the tokenizer's bits."""
    patch_kmeans_capped: FloorMetrics | None = None
    """The same with a smaller K than the tokenizer's bits allow."""


class CeilingMetrics(Metrics):
    """A reference for distances, which is no bound: reconstructions are compared with their own originals, so that a
    perfect tokenizer has a distance of 0. Files have it as `ceiling`."""

    train_halves: Distances
    """Distances between two disjoint random sets of training images, for scale."""


class ReplacedMetrics(Metrics):
    """Token replacement: `psnr_RANK` is the PSNR in dB where every token became its RANK-th nearest other code (0: none
    did)."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Interval] = Field(init=False)

    num_images: int
    """Images that were decoded."""

    def psnr(self, rank: int) -> Interval | None:
        """`psnr_RANK`, or None where the codebook does not have that rank."""
        return self.__pydantic_extra__.get(f"psnr_{rank}")


class EvaluationProtocol(Metrics):
    """How the numbers were measured, for reading; `Measured` has the digest."""

    split: str
    """Of the images."""
    num_images: int
    """Images that were measured."""
    resolution: int
    """Side of an image, in pixels."""
    grid: str
    """Rows x columns of tokens."""
    num_bootstrap: int
    """Resamples of each interval."""
    perceptual: str
    """Name of the perceptual distance, or `none`."""
    distance_images: int
    """Images on each side of every distance; 0 where none was measured."""
    distances_left_out: str | None = None
    """Why no distance was measured."""
    features: str | None = None
    """The network of the distances."""
    feature_dim: int | None = None
    """Length of its features."""
    subset_images: int | None = None
    """Images of a subset of the kernel distance."""
    num_subsets: int | None = None
    """Subsets of the kernel distance."""


class EvaluationMetrics(ReconstructionMetrics):
    """What the `evaluate` stage measures: a tokenizer at the top level, floors and a reference to compare with."""

    sha256: str | None = None
    """Digest of the tokenizer (`vqpipe.tokenizers.identity`); None in a row of a board, which publishes none."""
    num_identical: int
    """Images reconstructed without any error."""
    codes: dict[str, CodeMetrics]
    """By group: `code`, or such as `adjective` and `noun`."""
    floors: FloorsMetrics
    """Reconstructions that need no training."""
    ceiling: CeilingMetrics | None = None
    """None without training images or distances."""
    replaced: ReplacedMetrics | None = None
    """None where it was not asked for."""
    protocol: EvaluationProtocol
    """How it was measured."""
    measured: Measured
    """Digests of the images and the protocol."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` gives; `write` publishes the tables."""

    metrics: EvaluationMetrics
    tables: dict[str, pa.Table]
    """By the stem of their file, as in the evaluation specs."""
    facts: dict[str, Any]
    """Of the artifact."""

    def write(self, folder: Path) -> Path:
        """Publish the evaluation artifact and return its folder."""
        with publish_folder(folder, EVALUATION, self.facts) as partial:
            for name, spec in {**TABLES, "replaced": REPLACED}.items():
                if name in TABLES or name in self.tables:
                    write_table(partial / f"{name}.parquet", spec, self.tables[name], self.facts)
        return folder


@torch.no_grad()
def evaluate(
    tokenizer: TokenizerLike,
    test: Images,
    config: EvaluateParams,
    networks: MetricNetworks,
    train: Images | None = None,
    split: str = "test",
) -> Evaluation | None:
    """Measure a tokenizer on images that it was not trained on; None on all ranks but the first.

    Every distance of one evaluation has the same number of images on both sides.

    Args:
        tokenizer: in eval mode on the networks' device.
        test: the images, at the tokenizer's resolution.
        train: training images, for the k-means floor and the reference; without them both are left out.
        split: the name of the split that `test` is, for the record.

    Raises:
        DataError: no images, or a decoder whose output is not finite.
        MismatchError: a grid that does not divide the images.
    """
    if len(test) == 0:
        raise DataError(f"there are no images in {split}")
    count, left_out = _distance_images(test, train, config, networks)
    kmeans = _patch_kmeans(tokenizer, train, config, networks.device) if train is not None else None
    picked = np.zeros(len(test), dtype=bool)
    picked[numpy_rng(config.seed, "distances").permutation(len(test))[:count]] = True
    found = _pass_over(tokenizer, test, config, networks, kmeans, picked)
    ceiling = None
    if count and networks.features is not None and train is not None:
        halves = _train_halves(train, count, config, networks.features)
        ceiling = CeilingMetrics(train_halves=halves) if halves is not None else None
    if not is_main():
        return None
    errors = {name: one.table() for name, one in found.errors.items()}
    seed = derive(config.seed, "bootstrap")
    rows: dict[str, dict[str, Any]] = {
        name: {**intervals(table, config.num_bootstrap, seed)} for name, table in errors.items()
    }
    if count and networks.features is not None:
        reference = found.original_features.rows
        for name, one in found.errors.items():
            rows[name] |= feature_distances(one.features.rows, reference, networks.features, config.distances)
    rows["tokenizer"]["bits_per_image"] = bits_per_image(tokenizer.num_codes, tokenizer.grid)
    rows["block_mean"]["bits_per_image"] = 24.0 * tokenizer.grid[0] * tokenizer.grid[1]
    if kmeans is not None:
        sizes = {"num_codes": len(kmeans.centroids), "wanted_num_codes": kmeans.wanted}
        rows[kmeans.name] |= {"bits_per_image": kmeans.bits_per_image, **sizes}
    books = tokenizer.codebooks()
    health = measure_codes(found.usage, books, config.seed)
    replaced, replaced_metrics = None, None
    if config.examples.replaced is not None:
        replaced = replace_in_images(
            tokenizer, test, found.indices, config.examples.replaced, config.seed, config.batch_size, networks.device
        )  # fmt: skip
        by_rank = {f"psnr_{rank}": values for rank, values in replaced.psnr.items()}
        replaced_metrics = ReplacedMetrics.model_validate(
            {"num_images": len(replaced.rows), **intervals(by_rank, config.num_bootstrap, seed)}
        )
    metrics = EvaluationMetrics.model_validate(
        {
            **rows.pop("tokenizer"),
            "num_identical": int((errors["tokenizer"]["psnr"] == PSNR_IDENTICAL).sum()),
            "codes": {book.group: one for book, one in zip(books, health.metrics, strict=True)},
            "floors": rows,
            "ceiling": ceiling,
            "replaced": replaced_metrics,
            "protocol": _protocol(tokenizer, test, config, networks, split, count, left_out),
            "measured": _measured(found.digest, config, networks, split, count, train is not None),
        }
    )
    return _with_tables(tokenizer, test, config, metrics, errors, found, networks, health, replaced)


@dataclass(frozen=True)
class PassResult:
    """What one pass over the images gives; empty on all ranks but the first."""

    errors: dict[str, ReconstructionErrors]
    """Of the tokenizer and of each floor."""
    original_features: FeatureRows
    """Of the originals."""
    usage: CodeUsage
    indices: Int[Tensor, "n g h w"]
    digest: ImagesDigest


@dataclass(frozen=True)
class _MeasuredBatch:
    """What is kept of a batch of images, on the CPU."""

    digest: ImagesDigest
    indices: Int[Tensor, "b g h w"]
    for_sets: Tensor | None
    errors: dict[str, BatchErrors]


def _pass_over(
    tokenizer: TokenizerLike,
    test: Images,
    config: EvaluateParams,
    networks: MetricNetworks,
    kmeans: floors.PatchKmeans | None,
    picked: Bool[np.ndarray, " n"],
) -> PassResult:
    """Encode, decode and measure every image, and its floors; features are kept of the `picked` ones."""
    names = ["tokenizer", "block_mean", *([kmeans.name] if kmeans is not None else [])]
    with_features = bool(picked.any())
    dim = networks.features.dim if networks.features is not None and with_features else 0
    picked = picked if is_main() else picked[:0]
    errors = {name: ReconstructionErrors(picked, dim) for name in names}
    originals = ReconstructionErrors(picked, dim)
    usage, digest = CodeUsage(tokenizer.num_codes), ImagesDigest()
    kept = torch.zeros(0, len(tokenizer.num_codes), *tokenizer.grid, dtype=torch.int32)
    if is_main():
        kept = kept.new_empty(len(test), *kept.shape[1:])

    def measure(images: UInt8[Tensor, "b 3 h w"]) -> _MeasuredBatch:
        own = ImagesDigest()
        own.add(images)
        images = images.to(networks.device)
        indices = tokenizer.encode(to_float(images))
        made = {
            "tokenizer": decode_to_uint8(tokenizer, indices),
            "block_mean": floors.block_mean(images, tokenizer.grid),
        }
        if kmeans is not None:
            made[kmeans.name] = kmeans.reconstruct(images)
        features = networks.features_of(images, with_features)
        found = {name: batch_errors(networks, images, features, made[name]) for name in names}
        return _MeasuredBatch(own, indices.to("cpu", torch.int32), features.for_sets, found)

    batches = slices(len(test), config.batch_size)
    with progress_bar("evaluate", len(test)) as bar:
        results = in_turns(batches, lambda rows: test.take(np.arange(rows.start, rows.stop)), measure)
        for rows, done in zip(batches, results, strict=is_main()):
            digest.merge(done.digest)
            usage.add(done.indices)
            kept[rows] = done.indices
            originals.add(BatchErrors({}, done.for_sets))
            for name, one in errors.items():
                one.add(done.errors[name])
            bar.advance(rows.stop - rows.start)
    return PassResult(errors, originals.features, usage, kept, digest)


def _distance_images(
    test: Images, train: Images | None, config: EvaluateParams, networks: MetricNetworks
) -> tuple[int, str | None]:
    """Images on each side of every distance, and why there are none where it is 0."""
    if networks.features is None:
        return 0, "no features"
    count = len(test) if train is None else min(len(test), len(train) // 2)
    reason = why_no_distances(count, networks.features, config.distances)
    return (0, reason) if reason else (count, None)


def _protocol(
    tokenizer: TokenizerLike,
    test: Images,
    config: EvaluateParams,
    networks: MetricNetworks,
    split: str,
    count: int,
    left_out: str | None,
) -> EvaluationProtocol:
    features = networks.features
    return EvaluationProtocol(
        split=split,
        num_images=len(test),
        resolution=tokenizer.resolution,
        grid=f"{tokenizer.grid[0]} x {tokenizer.grid[1]}",
        num_bootstrap=config.num_bootstrap,
        perceptual=networks.perceptual.name if networks.perceptual else "none",
        distance_images=count,
        distances_left_out=left_out,
        features=features.source if features else None,
        feature_dim=features.dim if features else None,
        subset_images=config.distances.subset_images if features else None,
        num_subsets=config.distances.num_subsets if features else None,
    )


def _measured(
    digest: ImagesDigest,
    config: EvaluateParams,
    networks: MetricNetworks,
    split: str,
    count: int,
    with_train: bool,
) -> Measured:
    """The record; params of what was not measured, of pictures and of speed do not count."""
    unused = {"num_images", "batch_size", "health", "examples", "perceptual"}
    unused |= set() if count else {"distances"}
    unused |= set() if with_train else {"floors"}
    protocol = config.model_dump(mode="json", exclude=unused, exclude_none=True)
    protocol |= {
        "version": PROTOCOL, "crop": "centre", "distance_images": count,
        "features": networks.features.source if count and networks.features is not None else "none",
        "perceptual": networks.perceptual.source if networks.perceptual is not None else "none",
    }  # fmt: skip
    return measured_with(digest.images(split), protocol)


def _patch_kmeans(
    tokenizer: TokenizerLike, train: Images, config: EvaluateParams, device: torch.device
) -> floors.PatchKmeans:
    """The k-means floor, on raw patches of training images drawn at random; the ranks fit it together."""
    rng = numpy_rng(config.seed, "floor patches")
    images, cells = floors.draw_patch_positions(len(train), tokenizer.grid, config.floors.num_patches, rng)
    unique, place = np.unique(images, return_inverse=True)

    def cut(read: tuple[slice, UInt8[Tensor, "b 3 h w"]]) -> UInt8[Tensor, "m d"]:
        rows, pixels = read
        chosen = (place >= rows.start) & (place < rows.stop)
        patches = floors.to_patches(pixels, tokenizer.grid)
        return patches[torch.from_numpy(place[chosen] - rows.start), torch.from_numpy(cells[chosen])]

    batches = slices(len(unique), config.batch_size)
    parts = list(in_turns(batches, lambda rows: (rows, train.take(unique[rows])), cut))
    return floors.fit_patch_kmeans(
        from_main(lambda: torch.cat(parts)), tokenizer.num_codes, tokenizer.grid,
        num_iterations=config.floors.num_iterations, max_num_codes=config.floors.max_num_codes,
        seed=derive(config.seed, "floor k-means") % (1 << 31), device=device,
    )  # fmt: skip


def _train_halves(train: Images, count: int, config: EvaluateParams, features: Features) -> Distances | None:
    """Distances between two disjoint random sets of `count` training images; None on all ranks but the first."""
    order = numpy_rng(config.seed, "train halves").permutation(len(train))[: 2 * count]
    halves = []
    for half in (np.sort(order[:count]), np.sort(order[count:])):
        rows = FeatureRows(count if is_main() else 0, features.dim)
        batches = slices(count, config.batch_size)
        for part in in_turns([half[at] for at in batches], train.take, features.extract):
            rows.add(part)
        halves.append(rows.rows)
    if not is_main():
        return None
    return Distances(**feature_distances(halves[0], halves[1], features, config.distances))


def _with_tables(
    tokenizer: TokenizerLike, test: Images, config: EvaluateParams, metrics: EvaluationMetrics,
    errors: Mapping[str, Mapping[str, Float64[np.ndarray, " n"]]], found: PassResult, networks: MetricNetworks,
    health: CodeHealth, replaced: Replacements | None,
) -> Evaluation:  # fmt: skip
    protocol = metrics.protocol
    facts: dict[str, Any] = {
        "split": protocol.split, "num_images": protocol.num_images, "resolution": protocol.resolution,
        "perceptual": protocol.perceptual, "grid": list(tokenizer.grid), "num_codes": list(tokenizer.num_codes),
    }  # fmt: skip
    ids, own = list(test.ids), errors["tokenizer"]
    columns = {
        "image_id": ids, **{name: own[name] for name in ERRORS},
        "perceptual": own[protocol.perceptual] if protocol.perceptual in own else [None] * len(ids),
    }  # fmt: skip

    def reconstruct(positions: np.ndarray) -> Tensor:
        return decode(found.indices[torch.from_numpy(positions)].long())

    def decode(indices: Tensor) -> Tensor:
        return decode_to_uint8(tokenizer, indices.to(networks.device)).cpu()

    if replaced is not None:
        facts["ranks_left_out"] = replaced.left_out
    books, usage, indices = tokenizer.codebooks(), found.usage, found.indices
    codes, facts["map"] = code_columns(usage, books, health, config.health, config.seed)
    decoded = decoded_rows(decode, indices, usage, books, config.health, config.batch_size)
    examples = example_rows(
        test,
        reconstruct,
        columns,
        errors["block_mean"]["psnr"],
        config.examples,
        config.seed,
        config.batch_size,
    )
    curves = curve_rows(indices, books, tokenizer.num_codes, config.seed)
    words = code_patches(test, indices, usage, books, config.examples, config.seed, config.batch_size)
    tables = {
        "per_image": to_table(PER_IMAGE, columns, facts),
        "examples": to_table(EXAMPLES, examples, facts),
        "usage": to_table(USAGE, codes, facts),
        "usage_curve": to_table(USAGE_CURVE, curves, facts),
        "similarity": to_table(SIMILARITY, similarity_rows(usage, books, config.health), facts),
        "decoded": to_table(DECODED, decoded, facts),
        "words": to_table(WORDS, words, facts),
    }
    if replaced is not None:
        tables["replaced"] = to_table(REPLACED, replaced.rows, facts)
    return Evaluation(metrics, tables, facts)
