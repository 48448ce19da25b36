"""The measuring itself: one pass over a split that gives errors, distances and code usage, beside floors
and a ceiling.

Images pass once, in batches; per-image numbers, features and indices are kept, images are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor

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
from vqpipe.evaluation.health import (
    Health,
    code_columns,
    curve_rows,
    decoded_rows,
    measure_health,
    similarity_rows,
)
from vqpipe.evaluation.judges import Coder, Images, Judges, Row, reconstruct
from vqpipe.evaluation.pictures import code_patches, example_rows
from vqpipe.evaluation.replacement import Replaced, replace_in_images
from vqpipe.metrics import floors
from vqpipe.metrics.codes import CodeUsage, bits_per_image
from vqpipe.metrics.distances import feature_distances, refusal
from vqpipe.metrics.images import ERRORS, PSNR_IDENTICAL
from vqpipe.metrics.measured import MEASURED, ImagesDigest, Measured, measured, summarise
from vqpipe.params.evaluate import EvaluateParams
from vqpipe.runtime.progress import progress_bar
from vqpipe.runtime.seeds import derive, numpy_rng

if TYPE_CHECKING:
    from vqpipe.metrics.distances import Features

PROTOCOL = 1
"""Number of the protocol in the code: raise it when a change alters what a number means."""


@dataclass(frozen=True)
class Evaluation:
    """`metrics`: small nested JSON. `tables`: Arrow tables by file name, as in the evaluation specs."""

    metrics: dict[str, Any]
    tables: dict[str, pa.Table]
    facts: dict[str, Any]

    def write(self, folder: Path) -> Path:
        """Publish the evaluation artifact and return its folder."""
        with publish_folder(folder, EVALUATION, self.facts) as partial:
            for name, spec in {**TABLES, "replaced": REPLACED}.items():
                if name in TABLES or name in self.tables:
                    write_table(partial / f"{name}.parquet", spec, self.tables[name], self.facts)
        return folder


@torch.no_grad()
def evaluate(
    coder: Coder,
    test: Images,
    config: EvaluateParams,
    judges: Judges,
    train: Images | None = None,
    split: str = "test",
) -> Evaluation:
    """Measure a tokenizer on images that it was not trained on.

    Args:
        coder: the tokenizer, in eval mode on the judges' device.
        test: the images, at the tokenizer's resolution.
        train: training images, for the k-means floor and the ceiling; without them both are left out.
        split: the name of the split that `test` is, for the record.

    Returns:
        Metrics of the tokenizer at the top level: `psnr`, `ssim`, `l1`, `l2` and the perceptual distance as
        `{mean, low, high}` (95 % bootstrap interval), distances such as `fd_clip`, `bits_per_image`; the
        same of `floors.block_mean` and `floors.patch_kmeans` (`patch_kmeans_capped` where K had to be
        smaller); distances of one half of the training images from the other in `ceiling.train_halves`;
        `codes.code` (VQCT: `codes.adjective` and `codes.noun`); `replaced` where it is asked for, the PSNR of
        `num_images` images by rank of the neighbours that replaced their tokens (`psnr_0`: none did);
        `protocol`; and `measured`, the digests of the images and of the protocol (`metrics.measured`). Every
        distance of one evaluation has the same number of images on both sides.

    Raises:
        DataError: no images, or a decoder whose output is not finite.
        MismatchError: a grid that does not divide the images.
    """
    if len(test) == 0:
        raise DataError(f"there are no images in {split}")
    judged, left_out = _judged(test, train, config, judges)
    kmeans = _fit_kmeans(coder, train, config) if train is not None else None
    seen = _pass_over(coder, test, config, judges, kmeans, judged > 0)
    tables = {name: row.table() for name, row in seen.rows.items()}
    seed = derive(config.seed, "bootstrap")
    blocks: dict[str, dict[str, Any]] = {
        name: dict(summarise(table, config.num_bootstrap, seed)) for name, table in tables.items()
    }
    if judged and judges.features is not None:
        pick = np.sort(numpy_rng(config.seed, "distances").permutation(len(test))[:judged])
        reference = torch.cat(seen.real)[pick]
        for name, row in seen.rows.items():
            made = torch.cat(row.features)[pick]
            blocks[name] |= feature_distances(made, reference, judges.features, config.distances)
    blocks["tokenizer"]["bits_per_image"] = bits_per_image(coder.num_codes, coder.grid)
    blocks["block_mean"]["bits_per_image"] = 24.0 * coder.grid[0] * coder.grid[1]
    if kmeans is not None:
        found = {"num_codes": len(kmeans.centroids), "wanted_num_codes": kmeans.wanted}
        blocks[kmeans.name] |= {"bits_per_image": kmeans.bits_per_image, **found}
    health = measure_health(seen.usage, coder.codebooks(), config.seed)
    metrics = {
        **blocks.pop("tokenizer"),
        "num_identical": int((tables["tokenizer"]["psnr"] == PSNR_IDENTICAL).sum()),
        "codes": {book.group: n for book, n in zip(coder.codebooks(), health.numbers, strict=True)},
        "floors": blocks,
        "protocol": _protocol(coder, test, config, judges, split, judged, left_out),
        MEASURED: _measured(seen.digest, config, judges, split, judged, train is not None),
    }
    if judged and judges.features is not None and train is not None:
        metrics["ceiling"] = {"train_halves": _train_halves(train, judged, config, judges.features)}
    replaced = None
    if config.examples.replaced is not None:
        replaced = replace_in_images(
            coder, test, seen.indices, config.examples.replaced, config.seed, config.batch_size, judges.device
        )
        by_rank = {f"psnr_{rank}": values for rank, values in replaced.psnr.items()}
        metrics["replaced"] = {
            "num_images": len(replaced.rows), **summarise(by_rank, config.num_bootstrap, seed),
        }  # fmt: skip
    return _with_tables(coder, test, config, metrics, tables, seen, judges, health, replaced)


@dataclass(frozen=True)
class Seen:
    """What one pass over the images leaves: the rows, the originals' features, code counts and indices."""

    rows: dict[str, Row]
    real: list[Tensor]
    usage: CodeUsage
    indices: Int[Tensor, "n g h w"]
    digest: ImagesDigest


def _pass_over(
    coder: Coder,
    test: Images,
    config: EvaluateParams,
    judges: Judges,
    kmeans: floors.PatchKmeans | None,
    with_features: bool,
) -> Seen:
    """Encode, decode and measure every image, beside its floors."""
    names = ["tokenizer", "block_mean", *([kmeans.name] if kmeans is not None else [])]
    rows = {name: Row(judges) for name in names}
    real: list[Tensor] = []
    usage, kept, digest = CodeUsage(coder.num_codes), [], ImagesDigest()
    with progress_bar("evaluate", len(test)) as bar:
        for start in range(0, len(test), config.batch_size):
            positions = np.arange(start, min(start + config.batch_size, len(test)))
            images = test.take(positions)
            digest.add(images)
            images = images.to(judges.device)
            indices = coder.encode(to_float(images))
            usage.add(indices)
            kept.append(indices.to("cpu", torch.int32))
            made = {
                "tokenizer": reconstruct(coder, indices),
                "block_mean": floors.block_mean(images, coder.grid),
            }
            if kmeans is not None:
                made[kmeans.name] = kmeans.reconstruct(images)
            view = judges.view(images, with_features)
            for name, row in rows.items():
                row.add(images, view, made[name])
            if view.features is not None:
                real.append(view.features)
            bar.advance(len(images))
    return Seen(rows, real, usage, torch.cat(kept), digest)


def _judged(
    test: Images, train: Images | None, config: EvaluateParams, judges: Judges
) -> tuple[int, str | None]:
    """Images a side of every distance, and why there are none where it is 0."""
    if judges.features is None:
        return 0, "no features"
    count = len(test) if train is None else min(len(test), len(train) // 2)
    reason = refusal(count, judges.features, config.distances)
    return (0, reason) if reason else (count, None)


def _protocol(
    coder: Coder,
    test: Images,
    config: EvaluateParams,
    judges: Judges,
    split: str,
    judged: int,
    left_out: str | None,
) -> dict[str, Any]:
    protocol: dict[str, Any] = {
        "split": split, "num_images": len(test), "resolution": coder.resolution,
        "grid": f"{coder.grid[0]} x {coder.grid[1]}", "num_bootstrap": config.num_bootstrap,
        "perceptual": judges.perceptual.name if judges.perceptual else "none",
        "distance_images": judged,
    }  # fmt: skip
    if judges.features is not None:
        protocol |= {
            "features": judges.features.source, "feature_dim": judges.features.dim,
            "subset_images": config.distances.subset_images, "num_subsets": config.distances.num_subsets,
        }  # fmt: skip
    if left_out is not None:
        protocol["distances_left_out"] = left_out
    return protocol


def _measured(
    digest: ImagesDigest, config: EvaluateParams, judges: Judges, split: str, judged: int, with_train: bool
) -> Measured:
    """The record of what was measured; params of what was not measured, of pictures and of speed do not count."""
    unused = {"num_images", "batch_size", "health", "examples", "perceptual"}
    unused |= set() if judged else {"distances"}
    unused |= set() if with_train else {"floors"}
    protocol = config.model_dump(mode="json", exclude=unused, exclude_none=True)
    protocol |= {
        "version": PROTOCOL, "crop": "centre", "distance_images": judged,
        "features": judges.features.source if judged and judges.features is not None else "none",
        "perceptual": judges.perceptual.source if judges.perceptual is not None else "none",
    }  # fmt: skip
    return measured(digest.record(split), protocol)


def _fit_kmeans(coder: Coder, train: Images, config: EvaluateParams) -> floors.PatchKmeans:
    """The k-means floor, on raw patches of training images drawn at random."""
    rng = numpy_rng(config.seed, "floor patches")
    images, cells = floors.draw_patch_positions(len(train), coder.grid, config.floors.num_patches, rng)
    unique, place = np.unique(images, return_inverse=True)
    parts = []
    for start in range(0, len(unique), config.batch_size):
        chosen = (place >= start) & (place < start + config.batch_size)
        patches = floors.to_patches(train.take(unique[start : start + config.batch_size]), coder.grid)
        parts.append(patches[torch.from_numpy(place[chosen] - start), torch.from_numpy(cells[chosen])])
    return floors.fit_patch_kmeans(
        torch.cat(parts), coder.num_codes, coder.grid, num_iterations=config.floors.num_iterations,
        max_num_codes=config.floors.max_num_codes, seed=derive(config.seed, "floor k-means") % (1 << 31),
    )  # fmt: skip


def _train_halves(train: Images, count: int, config: EvaluateParams, features: Features) -> dict[str, float]:
    """Distances between two disjoint random sets of `count` training images: what a perfect model gets."""
    order = numpy_rng(config.seed, "train halves").permutation(len(train))[: 2 * count]
    halves = []
    for half in (np.sort(order[:count]), np.sort(order[count:])):
        steps = range(0, count, config.batch_size)
        parts = [
            features.extract(train.take(half[s : s + config.batch_size]), config.batch_size) for s in steps
        ]
        halves.append(torch.cat(parts))
    return feature_distances(halves[0], halves[1], features, config.distances)


def _with_tables(
    coder: Coder, test: Images, config: EvaluateParams, metrics: dict[str, Any],
    measured: Mapping[str, Mapping[str, np.ndarray]], seen: Seen, judges: Judges,
    health: Health, replaced: Replaced | None,
) -> Evaluation:  # fmt: skip
    facts = {
        **{key: metrics["protocol"][key] for key in ("split", "num_images", "resolution", "perceptual")},
        "grid": list(coder.grid), "num_codes": list(coder.num_codes),
    }  # fmt: skip
    ids, table = list(test.ids), measured["tokenizer"]
    perceptual = table.get(metrics["protocol"]["perceptual"])
    columns = {
        "image_id": ids, **{name: table[name] for name in ERRORS},
        "perceptual": perceptual if perceptual is not None else [None] * len(ids),
    }  # fmt: skip

    def remake(positions: np.ndarray) -> Tensor:
        return reconstruct(coder, seen.indices[torch.from_numpy(positions)].long().to(judges.device)).cpu()

    def decode(indices: Tensor) -> Tensor:
        return reconstruct(coder, indices.to(judges.device)).cpu()

    if replaced is not None:
        facts["ranks_left_out"] = replaced.left_out
    books, floor_psnr = coder.codebooks(), measured["block_mean"]["psnr"]
    codes, facts["map"] = code_columns(seen.usage, books, health, config.health, config.seed)
    decoded = decoded_rows(decode, seen.indices, seen.usage, books, config.health, config.batch_size)
    examples = example_rows(test, remake, columns, floor_psnr, config.examples, config.seed)
    tables = {
        "per_image": to_table(PER_IMAGE, columns, facts),
        "examples": to_table(EXAMPLES, examples, facts),
        "usage": to_table(USAGE, codes, facts),
        "usage_curve": to_table(
            USAGE_CURVE, curve_rows(seen.indices, books, coder.num_codes, config.seed), facts
        ),
        "similarity": to_table(SIMILARITY, similarity_rows(seen.usage, books, config.health), facts),
        "decoded": to_table(DECODED, decoded, facts),
        "words": to_table(
            WORDS, code_patches(test, seen.indices, seen.usage, books, config.examples, config.seed), facts
        ),
    }
    if replaced is not None:
        tables["replaced"] = to_table(REPLACED, replaced.rows, facts)
    return Evaluation(metrics, tables, facts)
