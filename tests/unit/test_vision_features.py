"""Patch features: pooling, shards, their order, and the centroids made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from torch import Tensor

from vqpipe.artifacts.publish import read_manifest, tree_digest
from vqpipe.artifacts.specs.patches import PATCH_IMAGES, PATCH_SHARD, PATCHES
from vqpipe.artifacts.tables import read_table
from vqpipe.artifacts.tensors import read_tensors
from vqpipe.codebooks.centroids import read_centroids
from vqpipe.errors import ArtifactError, DataError, MismatchError
from vqpipe.params.base import validate
from vqpipe.params.cluster import ClusterParams
from vqpipe.params.patches import PatchesParams
from vqpipe.vision import towers
from vqpipe.vision.centroids import write_centroids
from vqpipe.vision.clip import Clip
from vqpipe.vision.features import iter_shards, plan_shards, pool, read_vectors, write_patches

CPU = torch.device("cpu")
CONFIG = {
    "embed_dim": 6,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 8, "layers": 1, "head_width": 4},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}


class Pictures:
    """Random images."""

    def __init__(self, num: int) -> None:
        self.ids = [f"image-{number}" for number in range(num)]
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 256, (num, 3, 16, 16), dtype=torch.uint8, generator=generator)

    def images(self, start: int, stop: int) -> UInt8[Tensor, "n 3 r r"]:
        return self.pixels[start:stop]


@pytest.fixture(scope="module")
def clip() -> Clip:
    torch.manual_seed(0)
    return Clip(towers.build_model(CONFIG, "test"), PREPROCESS, "test:random:0")


def patches_params(**changes: object) -> PatchesParams:
    plain = {"split": "train", "projected": True, "grid": 2, "batch_size": 3, "shard_bytes": 1 << 20}
    return validate({**plain, **changes}, "patches", PatchesParams)


def cluster_params(**changes: object) -> ClusterParams:
    plain = {
        "num_clusters": 5, "method": "kmeans", "algorithm": "torch", "start": "random", "num_iterations": 4,
        "seed": 0, "spherical": False, "prefixes": [], "pull": 0.0,
    }  # fmt: skip
    return validate({**plain, **changes}, "cluster", ClusterParams)


def test_shards_hold_whole_images_and_all_of_them() -> None:
    shards = plan_shards(10, bytes_per_image=100, shard_bytes=350)
    assert [(s.number, s.start, s.stop) for s in shards] == [(0, 0, 3), (1, 3, 6), (2, 6, 9), (3, 9, 10)]
    assert len(plan_shards(3, bytes_per_image=100, shard_bytes=1)) == 3


def test_pooling_averages_blocks_in_row_major_order() -> None:
    features = torch.arange(16.0).reshape(1, 4, 4, 1)
    assert pool(features, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool(features, 4).flatten().tolist() == list(range(16))


@pytest.mark.parametrize("grid", [3, 8])
def test_a_grid_that_does_not_divide_lists_those_that_do(clip: Clip, tmp_path: Path, grid: int) -> None:
    with pytest.raises(MismatchError, match="1, 2, 4"):
        write_patches(clip, Pictures(2), patches_params(grid=grid), tmp_path / "patches", CPU)
    assert not (tmp_path / "patches").exists()


def test_the_vectors_are_the_pooled_features_of_each_image(clip: Clip, tmp_path: Path) -> None:
    pictures = Pictures(7)
    metrics = write_patches(clip, pictures, patches_params(), tmp_path / "patches", CPU)
    manifest = read_manifest(tmp_path / "patches", PATCHES)
    assert manifest.facts["clip_id"] == clip.id
    assert metrics["num_vectors"] == manifest.facts["num_vectors"] == 28
    shard, _ = read_tensors(tmp_path / "patches" / "patches-00000.safetensors", PATCH_SHARD)
    expected = pool(clip.patch_features(pictures.pixels.float() / 127.5 - 1, True), 2)
    torch.testing.assert_close(shard["features"].float(), expected.flatten(0, 1), atol=2e-3, rtol=2e-3)
    assert shard["image"].tolist() == [number for number in range(7) for _ in range(4)]
    assert shard["position"].tolist() == [0, 1, 2, 3] * 7
    table = read_table(tmp_path / "patches" / "images.parquet", PATCH_IMAGES)
    assert table.column("image_id").to_pylist() == pictures.ids
    assert metrics["mean_square_per_dim"] == pytest.approx(float(expected.square().mean()), rel=1e-2)


def test_unprojected_features_have_the_towers_width(clip: Clip, tmp_path: Path) -> None:
    metrics = write_patches(clip, Pictures(2), patches_params(projected=False), tmp_path / "p", CPU)
    assert metrics["dim"] == 8
    assert read_vectors(tmp_path / "p").shape == (8, 8)


def test_shards_together_are_one_shard(clip: Clip, tmp_path: Path) -> None:
    write_patches(clip, Pictures(8), patches_params(batch_size=2), tmp_path / "one", CPU)
    small = patches_params(batch_size=2, shard_bytes=1 << 10)
    metrics = write_patches(clip, Pictures(200), small, tmp_path / "many", CPU)
    assert metrics["num_shards"] == 10
    assert (tmp_path / "many" / "patches-00009.safetensors").is_file()
    np.testing.assert_array_equal(read_vectors(tmp_path / "many")[:32], read_vectors(tmp_path / "one"))
    images = torch.cat([shard["image"] for shard in iter_shards(tmp_path / "many")])
    assert images.tolist() == [number for number in range(200) for _ in range(4)]


def test_a_second_run_gives_the_same_bytes(clip: Clip, tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        write_patches(clip, Pictures(9), patches_params(), tmp_path / name, CPU)
        write_centroids(tmp_path / name, cluster_params(), tmp_path / f"{name}-centroids")
        digests.append([tree_digest(tmp_path / name), tree_digest(tmp_path / f"{name}-centroids")])
    assert digests[0] == digests[1]


def test_features_that_are_not_finite_name_the_image(tmp_path: Path) -> None:
    broken = towers.build_model(CONFIG, "test")
    broken.visual.proj.data[:] = float("nan")
    with pytest.raises(DataError, match="image-0"):
        write_patches(Clip(broken, PREPROCESS, "broken"), Pictures(2), patches_params(), tmp_path / "p", CPU)
    assert not (tmp_path / "p").exists()


def test_an_empty_split_is_refused(clip: Clip, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        write_patches(clip, Pictures(0), patches_params(), tmp_path / "p", CPU)


def test_centroids_are_read_back_with_what_they_are_made_of(clip: Clip, tmp_path: Path) -> None:
    write_patches(clip, Pictures(20), patches_params(), tmp_path / "patches", CPU)
    metrics = write_centroids(tmp_path / "patches", cluster_params(), tmp_path / "centroids")
    prior = read_centroids(tmp_path / "centroids")
    assert prior.vectors.shape == (5, 6)
    assert prior.vectors.dtype == torch.float32
    assert prior.counts.sum() == 80
    assert prior.facts["clip_id"] == clip.id
    assert prior.facts["objective"] == metrics["objective"]
    vectors = torch.from_numpy(read_vectors(tmp_path / "patches"))
    nearest = torch.cdist(vectors, prior.vectors).square().min(dim=1).values
    assert metrics["objective"] == pytest.approx(float(nearest.mean()), rel=1e-4)


def test_more_clusters_than_patches_is_refused(clip: Clip, tmp_path: Path) -> None:
    write_patches(clip, Pictures(2), patches_params(), tmp_path / "patches", CPU)
    with pytest.raises(MismatchError, match="num_clusters 9, 8 vectors"):
        write_centroids(tmp_path / "patches", cluster_params(num_clusters=9), tmp_path / "centroids")
    assert not (tmp_path / "centroids").exists()


def test_missing_inputs_name_their_stage(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="dvc repro patches"):
        write_centroids(tmp_path / "none", cluster_params(), tmp_path / "centroids")
    with pytest.raises(ArtifactError, match="dvc repro cluster"):
        read_centroids(tmp_path / "none")
