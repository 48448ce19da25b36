"""Patch features: pooling, shards, their order, what is resumed, and the centroids made of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.damage import DAMAGES, DELETED
from vqpipe.artifacts.publish import publish_folder, read_manifest, tree_digest, write_manifest
from vqpipe.artifacts.spec import header_for
from vqpipe.artifacts.specs.patches import PATCH_IMAGES, PATCH_SHARD, PATCHES
from vqpipe.artifacts.tables import read_table
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.codebooks.patches import read_patches_codebook
from vqpipe.errors import ArtifactError, DataError, MismatchError
from vqpipe.params.base import validate
from vqpipe.vision import patches, towers
from vqpipe.vision.clip import Clip
from vqpipe.vision.cluster import ClusterParams, write_patches_codebook
from vqpipe.vision.features import iter_shards, open_vectors, plan_shards, pool
from vqpipe.vision.kmeans import kmeans
from vqpipe.vision.patches import PatchesParams

CPU = torch.device("cpu")
CONFIG = {
    "embed_dim": 6,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 8, "layers": 1, "head_width": 4},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}


class Pictures:
    """Random images; one that is damaged is an error, as in `vqpipe.data.stream.ImageStream`."""

    def __init__(self, num: int, damaged: int | None = None) -> None:
        self.ids = [f"image-{number}" for number in range(num)]
        self.damaged = damaged
        self.spans: list[range] = []
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 256, (num, 3, 16, 16), dtype=torch.uint8, generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, spans: Iterable[range]) -> Generator[tuple[list[str], Tensor], None, None]:
        for span in spans:
            self.spans.append(span)
            if self.damaged in span:
                raise ArtifactError(f"{self.ids[self.damaged]} is damaged", run="dvc repro dataset")
            yield self.ids[span.start : span.stop], self.pixels[span.start : span.stop]


@pytest.fixture(scope="module")
def clip() -> Clip:
    torch.manual_seed(0)
    return Clip(towers.build_model(CONFIG, "test"), PREPROCESS, "test:random:0")


def patches_params(**changes: object) -> PatchesParams:
    plain = {
        "split": "train", "projected": True, "grid": 2, "batch_size": 3, "shard_bytes": 1 << 20,
    }  # fmt: skip
    return validate({**plain, **changes}, "patches", PatchesParams)


def write_patches(clip: Clip, pictures: Pictures, params: PatchesParams, out: Path) -> Any:
    scratch = out.with_name(f"{out.name}-scratch")
    scratch.mkdir(exist_ok=True)
    return patches.write_patches(clip, pictures, params, out, scratch, CPU)


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
        write_patches(clip, Pictures(2), patches_params(grid=grid), tmp_path / "patches")
    assert not (tmp_path / "patches").exists()


def test_the_vectors_are_the_pooled_features_of_each_image(clip: Clip, tmp_path: Path) -> None:
    pictures = Pictures(7)
    metrics = write_patches(clip, pictures, patches_params(), tmp_path / "patches")
    manifest = read_manifest(tmp_path / "patches", PATCHES)
    assert manifest.facts["clip_id"] == clip.id
    assert metrics.num_vectors == manifest.facts["num_vectors"] == 28
    shard, _ = read_tensors(tmp_path / "patches" / "patches-00000.safetensors", PATCH_SHARD)
    expected = pool(clip.patch_features(pictures.pixels.float() / 127.5 - 1, True), 2)
    torch.testing.assert_close(shard["features"].float(), expected.flatten(0, 1), atol=2e-3, rtol=2e-3)
    assert shard["image"].tolist() == [number for number in range(7) for _ in range(4)]
    assert shard["position"].tolist() == [0, 1, 2, 3] * 7
    table = read_table(tmp_path / "patches" / "images.parquet", PATCH_IMAGES)
    assert table.column("image_id").to_pylist() == pictures.ids
    assert metrics.mean_square_per_dim == pytest.approx(float(expected.square().mean()), rel=1e-2)


def test_unprojected_features_have_the_towers_width(clip: Clip, tmp_path: Path) -> None:
    metrics = write_patches(clip, Pictures(2), patches_params(projected=False), tmp_path / "p")
    assert metrics.dim == 8
    assert open_vectors(tmp_path / "p").shape == (8, 8)


def test_shards_together_are_one_shard(clip: Clip, tmp_path: Path) -> None:
    write_patches(clip, Pictures(8), patches_params(batch_size=2), tmp_path / "one")
    small = patches_params(batch_size=2, shard_bytes=1 << 10)
    metrics = write_patches(clip, Pictures(200), small, tmp_path / "many")
    assert metrics.num_shards == 10
    assert (tmp_path / "many" / "patches-00009.safetensors").is_file()
    np.testing.assert_array_equal(
        open_vectors(tmp_path / "many")[:32],
        open_vectors(tmp_path / "one")[:],
    )
    images = torch.cat([shard["image"] for shard in iter_shards(tmp_path / "many")])
    assert images.tolist() == [number for number in range(200) for _ in range(4)]


def test_a_second_run_gives_the_same_bytes(clip: Clip, tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        write_patches(clip, Pictures(9), patches_params(), tmp_path / name)
        write_patches_codebook(tmp_path / name, cluster_params(), tmp_path / f"{name}-centroids")
        digests.append([tree_digest(tmp_path / name), tree_digest(tmp_path / f"{name}-centroids")])
    assert digests[0] == digests[1]


class Killed(Exception):
    """Stands for a kill."""


def test_a_killed_run_keeps_its_shards_and_ends_with_the_same_bytes(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = patches_params(batch_size=2, shard_bytes=1 << 10)
    whole = write_patches(clip, Pictures(110), params, tmp_path / "whole")
    write = patches.write_tensors

    def write_two(path: Path, *rest: Any) -> None:
        if path.name == "patches-00002.safetensors":
            raise Killed
        write(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(patches, "write_tensors", write_two)
        with pytest.raises(Killed):
            write_patches(clip, Pictures(110), params, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    kept = sorted(path.name for path in (tmp_path / "out-scratch").glob("*.safetensors"))
    assert kept == ["patches-00000.safetensors", "patches-00001.safetensors"]
    written = []
    with monkeypatch.context() as patch:
        patch.setattr(
            patches, "write_tensors", lambda path, *rest: (written.append(path), write(path, *rest))
        )
        assert write_patches(clip, Pictures(110), params, tmp_path / "out") == whole
    assert len(written) == whole.num_shards - 2 == 4
    assert tree_digest(tmp_path / "out") == tree_digest(tmp_path / "whole")


@pytest.mark.parametrize("damage", [*DAMAGES.values(), *DELETED.values()], ids=[*DAMAGES, *DELETED])
@pytest.mark.parametrize("ending", ["safetensors", "json"])
def test_a_damaged_shard_or_record_is_made_again_and_not_published(
    clip: Clip,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    ending: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = patches_params(batch_size=2, shard_bytes=1 << 10)
    whole = write_patches(clip, Pictures(60), params, tmp_path / "whole")

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(patches, "publish_folder", killed)
        with pytest.raises(Killed):
            write_patches(clip, Pictures(60), params, tmp_path / "out")
    damage(tmp_path / f"out-scratch/patches-00001.{ending}")
    assert capsys.readouterr().err == ""
    pictures = Pictures(60)
    assert write_patches(clip, pictures, params, tmp_path / "out") == whole
    assert (pictures.spans[0].start, pictures.spans[-1].stop) == (21, 42), "one shard of three"
    assert tree_digest(tmp_path / "out") == tree_digest(tmp_path / "whole")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"patches-00001.{ending}" in said
    assert said.endswith("; patches-00001.safetensors is made again\n")


def test_ranks_share_what_is_left_and_the_bytes_are_the_same(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = patches_params(batch_size=2, shard_bytes=1 << 10)
    whole = write_patches(clip, Pictures(110), params, tmp_path / "whole")
    for rank in (2, 1, 0):
        with monkeypatch.context() as patch:
            # One after the other: each begins with what all saw as missing at the start, which is everything.
            patch.setattr(patches, "rank", lambda rank=rank: rank)
            patch.setattr(patches, "world_size", lambda: 3)
            patch.setattr(patches, "is_main", lambda rank=rank: rank == 0)
            patch.setattr(patches, "all_reduce_sum", torch.ones_like)
            found = write_patches(clip, Pictures(110), params, tmp_path / "out")
    assert found == whole
    assert tree_digest(tmp_path / "out") == tree_digest(tmp_path / "whole")


@pytest.mark.parametrize("threads", [1, 3])
def test_the_bytes_do_not_depend_on_the_threads(clip: Clip, tmp_path: Path, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        write_patches(clip, Pictures(40), patches_params(), tmp_path / "some")
        assert torch.get_num_threads() == threads
        torch.set_num_threads(2)
        write_patches(clip, Pictures(40), patches_params(), tmp_path / "two")
    finally:
        torch.set_num_threads(before)
    assert tree_digest(tmp_path / "some") == tree_digest(tmp_path / "two")


def test_a_damaged_image_ends_the_run_and_the_next_one_continues(clip: Clip, tmp_path: Path) -> None:
    params = patches_params(batch_size=2, shard_bytes=1 << 10)
    whole = write_patches(clip, Pictures(60), params, tmp_path / "whole")
    with pytest.raises(ArtifactError, match="image-50 is damaged"):
        write_patches(clip, Pictures(60, damaged=50), params, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pictures = Pictures(60)
    assert write_patches(clip, pictures, params, tmp_path / "out") == whole
    assert (pictures.spans[0].start, pictures.spans[-1].stop) == (42, 60), "one shard of three"
    assert tree_digest(tmp_path / "out") == tree_digest(tmp_path / "whole")


def test_an_artifact_of_before_with_a_table_of_skipped_images_is_read(clip: Clip, tmp_path: Path) -> None:
    write_patches(clip, Pictures(9), patches_params(), tmp_path / "now")
    facts = {**read_manifest(tmp_path / "now", PATCHES).facts, "num_skipped": 0}
    with publish_folder(tmp_path / "before", PATCHES, facts) as partial:
        for file in ("patches-00000.safetensors", "images.parquet"):
            (partial / file).write_bytes((tmp_path / "now" / file).read_bytes())
        (partial / "skipped.parquet").write_bytes((tmp_path / "now/images.parquet").read_bytes())
    np.testing.assert_array_equal(open_vectors(tmp_path / "before")[:], open_vectors(tmp_path / "now")[:])
    for name in ("now", "before"):
        write_patches_codebook(tmp_path / name, cluster_params(), tmp_path / f"{name}-centroids")
    assert tree_digest(tmp_path / "before-centroids") == tree_digest(tmp_path / "now-centroids")


def test_vectors_are_mapped_across_shards(clip: Clip, tmp_path: Path) -> None:
    write_patches(clip, Pictures(60), patches_params(shard_bytes=1 << 10), tmp_path / "p")
    mapped = open_vectors(tmp_path / "p")
    whole = np.concatenate([shard["features"].numpy() for shard in iter_shards(tmp_path / "p")])
    assert len(mapped.parts) == 3
    assert mapped.shape == whole.shape
    for rows in (slice(0, 5), slice(80, 90), slice(3, 230), slice(84, 84), slice(-3, None), slice(300, 400)):
        np.testing.assert_array_equal(mapped[rows], whole[rows])
        assert mapped[rows].dtype == np.float16
    assert isinstance(mapped[4:9], np.memmap)
    with pytest.raises(ValueError, match="step"):
        mapped[::2]
    assert kmeans(mapped, 5, 3, 0).centroids.tobytes() == kmeans(whole, 5, 3, 0).centroids.tobytes()


def test_shards_that_are_not_the_manifests_are_reported(clip: Clip, tmp_path: Path) -> None:
    for name, dim in (("p", True), ("q", False)):
        write_patches(clip, Pictures(3), patches_params(projected=dim), tmp_path / name)
    for name in ("patches-00000.safetensors", "images.parquet"):
        (tmp_path / "q" / name).write_bytes((tmp_path / "p" / name).read_bytes())
    facts = read_manifest(tmp_path / "p", PATCHES).facts
    write_manifest(tmp_path / "q", header_for(PATCHES, {**facts, "num_vectors": 11}))
    with pytest.raises(ArtifactError, match="12 vectors"):
        open_vectors(tmp_path / "q")


def test_a_shard_without_vectors_is_refused(tmp_path: Path) -> None:
    facts = {"dim": 6, "num_shards": 1, "num_vectors": 0}
    with publish_folder(tmp_path / "p", PATCHES, facts) as partial:
        (partial / "images.parquet").touch()
        none = torch.zeros(0, dtype=torch.int32)
        tensors = {"features": torch.zeros(0, 6).half(), "image": none, "position": none}
        write_tensors(partial / "patches-00000.safetensors", PATCH_SHARD, tensors)
    with pytest.raises(ArtifactError, match="not the features of the manifest"):
        open_vectors(tmp_path / "p")


def test_features_that_are_not_finite_name_the_image(tmp_path: Path) -> None:
    broken = towers.build_model(CONFIG, "test")
    broken.visual.proj.data[:] = float("nan")
    with pytest.raises(DataError, match="image-0"):
        write_patches(Clip(broken, PREPROCESS, "broken"), Pictures(2), patches_params(), tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_an_empty_split_is_refused(clip: Clip, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        write_patches(clip, Pictures(0), patches_params(), tmp_path / "p")


def test_centroids_are_read_back_with_what_they_are_made_of(clip: Clip, tmp_path: Path) -> None:
    write_patches(clip, Pictures(20), patches_params(), tmp_path / "patches")
    metrics = write_patches_codebook(tmp_path / "patches", cluster_params(), tmp_path / "centroids")
    prior = read_patches_codebook(tmp_path / "centroids")
    assert prior.vectors.shape == (5, 6)
    assert prior.vectors.dtype == torch.float32
    assert prior.counts.sum() == 80
    assert prior.facts["clip_id"] == clip.id
    assert prior.facts["objective"] == metrics.objective
    vectors = torch.from_numpy(open_vectors(tmp_path / "patches")[:].astype(np.float32))
    nearest = torch.cdist(vectors, prior.vectors).square().min(dim=1).values
    assert metrics.objective == pytest.approx(float(nearest.mean()), rel=1e-4)


def test_more_clusters_than_patches_is_refused(clip: Clip, tmp_path: Path) -> None:
    write_patches(clip, Pictures(2), patches_params(), tmp_path / "patches")
    with pytest.raises(MismatchError, match="num_clusters 9, 8 vectors"):
        write_patches_codebook(tmp_path / "patches", cluster_params(num_clusters=9), tmp_path / "centroids")
    assert not (tmp_path / "centroids").exists()


def test_missing_inputs_name_their_stage(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="dvc repro patches"):
        write_patches_codebook(tmp_path / "none", cluster_params(), tmp_path / "centroids")
    with pytest.raises(ArtifactError, match="dvc repro cluster"):
        read_patches_codebook(tmp_path / "none")
