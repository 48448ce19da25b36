"""The PATCHES artifact: shards made by all ranks in a scratch folder, where a killed run finds them, and published."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from vqpipe.artifacts.kept import is_sound
from vqpipe.artifacts.publish import publish_folder, remove_leftovers
from vqpipe.artifacts.specs.patches import PATCH_IMAGES, PATCH_SKIPPED, PATCHES
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.errors import DataError
from vqpipe.params.patches import PatchesParams
from vqpipe.runtime.distributed import all_reduce_sum, barrier, is_main, rank, world_size
from vqpipe.runtime.env import workers
from vqpipe.runtime.preflight import need_disk
from vqpipe.runtime.progress import progress_bar
from vqpipe.runtime.signals import close_pool
from vqpipe.vision.clip import Clip
from vqpipe.vision.extract import Images, check_shard, clip_dim, extract_shards, read_record, record_path
from vqpipe.vision.features import FP16_BYTES, Shard, check_grid, plan_shards, total_variance


def write_patches(
    clip: Clip,
    images: Images,
    params: PatchesParams,
    out: Path,
    scratch: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Publish the PATCHES artifact of a split and return the stage's metrics.

    Under torchrun all ranks call this with one scratch folder on a file system that they share: of the shards that
    are not there yet rank r makes the r-th, the (r + W)-th, ..., and rank 0 publishes. The bytes are the same for
    any number of ranks, threads and workers, and after any number of kills. A shard that is damaged is made again.

    Args:
        clip: the CLIP.
        images: the split, as squares of the tower's size.
        params: see `PatchesParams`.
        out: where the artifact is published.
        scratch: folder that finished shards stay in until the artifact is published; its name must tell the params
            and inputs apart.
        device: where CLIP runs.

    Raises:
        DataError: no images, too many that cannot be read, or features that are not finite.
        MismatchError: a grid that does not divide CLIP's.
        SetupError: too little disk space.
    """
    if not len(images):
        raise DataError(
            f"the split {params.split} has no images", expected="1 or more", run="dvc repro dataset"
        )
    check_grid(clip.patch_grid, params.grid)
    per_image = params.grid**2 * clip_dim(clip, params) * FP16_BYTES
    shards = plan_shards(len(images), per_image, params.shard_bytes)
    _extract(clip, images, params, shards, per_image, out, scratch, device)
    return _publish(clip, params, len(images), shards, out, scratch) if is_main() else {}


def _extract(
    clip: Clip,
    images: Images,
    params: PatchesParams,
    shards: list[Shard],
    per_image: int,
    out: Path,
    scratch: Path,
    device: torch.device,
) -> None:
    """This rank's share of the shards that are missing or damaged."""
    missing = torch.zeros(len(shards), dtype=torch.long, device=device)
    if is_main():
        remove_leftovers(scratch)
        missing += torch.tensor(_missing(scratch, shards), device=device)
    missing = all_reduce_sum(missing)  # as rank 0 sees it
    left = [shard for shard, is_missing in zip(shards, missing.tolist(), strict=True) if is_missing]
    if is_main():
        need_disk(scratch, per_image * sum(s.stop - s.start for s in left), "the patch features")
        if not _on_one_disk(scratch, out.parent):
            need_disk(out.parent, per_image * len(images), "the patch features")
    skipped: list[tuple[int, str, str, str]] = []
    own = left[rank() :: world_size()]
    with (
        progress_bar("patches", sum(s.stop - s.start for s in own)) as bar,
        closing(extract_shards(clip, images, params, own, scratch, device)) as done,
    ):
        for shard, record in done:
            skipped += record.skipped
            _judge(skipped, len(images), params)
            bar.advance(shard.stop - shard.start)
    barrier()


def _missing(scratch: Path, shards: list[Shard]) -> list[bool]:
    """Which shards are to be made; one that was made and is damaged is named on stderr."""

    def is_missing(shard: Shard) -> bool:
        if not (scratch / shard.name).is_file() and not record_path(scratch, shard).is_file():
            return True
        return not is_sound(lambda: check_shard(scratch, shard), f"{shard.name} is made again")

    pool = ThreadPoolExecutor(workers())
    try:
        return list(pool.map(is_missing, shards))
    finally:
        close_pool(pool)


def _on_one_disk(scratch: Path, folder: Path) -> bool:
    while not folder.exists():
        folder = folder.absolute().parent
    return scratch.stat().st_dev == folder.stat().st_dev


def _publish(
    clip: Clip, params: PatchesParams, num_images: int, shards: list[Shard], out: Path, scratch: Path
) -> dict[str, Any]:
    records = [read_record(scratch, shard) for shard in shards]
    kept = [row for record in records for row in record.kept]
    skipped = [row for record in records for row in record.skipped]
    _judge(skipped, num_images, params)
    num_vectors = len(kept) * params.grid**2
    facts = {
        "clip_id": clip.id, "dim": clip_dim(clip, params), "grid": params.grid, "projected": params.projected,
        "split": params.split, "num_images": len(kept), "num_skipped": len(skipped), "num_vectors": num_vectors,
        "num_shards": len(shards),
    }  # fmt: skip
    with publish_folder(out, PATCHES, facts) as partial:
        used = dict(zip(("image", "image_id"), map(list, zip(*kept, strict=True)), strict=True))
        write_table(partial / "images.parquet", PATCH_IMAGES, to_table(PATCH_IMAGES, used))
        names = list(PATCH_SKIPPED.columns)
        left_out = [dict(zip(names, row, strict=True)) for row in skipped]
        write_table(partial / "skipped.parquet", PATCH_SKIPPED, to_table(PATCH_SKIPPED, left_out))
        for shard in shards:
            _place(scratch / shard.name, partial / shard.name)
    sums, squares = (
        torch.tensor([getattr(record, name) for record in records], dtype=torch.float64).sum(dim=0)
        for name in ("sums", "squares")
    )
    variance, mean_square = total_variance(sums, squares, num_vectors)
    return {
        "num_images": len(kept), "num_skipped": len(skipped), "num_vectors": num_vectors,
        "num_shards": len(shards), "dim": facts["dim"], "grid": params.grid,
        "skipped": dict(sorted(Counter(reason for _, _, reason, _ in skipped).items())),
        "bad_fraction": round(len(skipped) / num_images, 6),
        "variance_per_dim": variance, "mean_square_per_dim": mean_square,
    }  # fmt: skip


def _place(source: Path, target: Path) -> None:
    """The same file under a second name, so that a run killed here loses no shard; a copy on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _judge(skipped: list[tuple[int, str, str, str]], num_images: int, params: PatchesParams) -> None:
    """Raise `DataError` once more images are bad than the params allow for all of the split."""
    if len(skipped) > params.max_bad_fraction * num_images:
        raise DataError(
            f"{len(skipped)} of the {num_images} {params.split} images cannot be read",
            found=_shown(skipped),
            expected=f"at most patches.max_bad_fraction = {params.max_bad_fraction:.1%}",
            run="dvc repro dataset, or raise patches.max_bad_fraction in params.yaml",
        )


def _shown(skipped: list[tuple[int, str, str, str]]) -> str:
    common = Counter(reason for _, _, reason, _ in skipped).most_common(3)
    examples = {reason: f"{name}: {detail}" for _, name, reason, detail in reversed(skipped)}
    return "; ".join(f"{count} {reason} (such as {examples[reason]})" for reason, count in common)
