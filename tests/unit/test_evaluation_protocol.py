"""The whole protocol on a small coder whose behaviour is known: one lightness per cell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.evaluation import EVALUATION, EXAMPLES, PER_IMAGE, USAGE, WORDS
from vqpipe.artifacts.tables import read_table
from vqpipe.data.images import decode_png
from vqpipe.data.loader import to_float
from vqpipe.errors import DataError
from vqpipe.evaluation.measure import EvaluateParams, Evaluation, evaluate
from vqpipe.evaluation.pictures import choose_examples
from vqpipe.evaluation.reconstructions import MetricNetworks
from vqpipe.metrics.distances import clip_features
from vqpipe.metrics.images import psnr
from vqpipe.models.perceptual import ClipPerceptual

CPU = torch.device("cpu")
SIDE, GRID = 16, (4, 4)


@dataclass
class Book:
    group: str
    vectors: torch.Tensor
    names: list[str] | None


class Palette:
    """Two codes per cell: its lightness in 8 steps, and a colour that is always the last of three."""

    num_codes, grid, resolution = (8, 3), GRID, SIDE

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        means = nn.functional.adaptive_avg_pool2d(images, GRID).mean(dim=1)
        light = ((means + 1) / 2 * 8).long().clamp(0, 7)
        return torch.stack([light, torch.full_like(light, 2)], dim=1)

    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        light = (indices[:, :1].float() + 0.5) / 8 * 2 - 1
        return nn.functional.interpolate(light.expand(-1, 3, -1, -1), (SIDE, SIDE))

    def codebooks(self) -> list[Any]:
        light = torch.linspace(-1, 1, 8)[:, None] * torch.ones(1, 3)
        return [Book("light", light, None), Book("colour", torch.eye(3), ["red", "green", "blue"])]


class Broken(Palette):
    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        return super().decode(indices) * torch.nan


class FakeClip(nn.Module):
    id, embed_dim, num_blocks, shared_passes = "fake:unit:0", 5, 1, 0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, 4, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(
                torch.randn(self.conv.weight.shape, generator=torch.Generator().manual_seed(0))
            )

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).mean(dim=(2, 3))

    def check_layers(self, layers: Any) -> None:
        pass

    def perceptual_features(self, images: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        return [self.conv(images).flatten(2).transpose(1, 2)]

    def encode_image_and_blocks(
        self, images: torch.Tensor, layers: tuple[int, ...]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        self.shared_passes += len(images)
        return self.encode_image(images), self.perceptual_features(images, layers)


class Pictures:
    """Smooth random pictures in memory."""

    def __init__(self, n: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(n, 3, 5, 5, generator=generator) * 255
        self.pixels = nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear").round().to(torch.uint8)
        self.ids = [f"picture-{i}" for i in range(n)]

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, positions: np.ndarray) -> torch.Tensor:
        return self.pixels[torch.from_numpy(positions)]


def config(**changes: Any) -> EvaluateParams:
    base = {
        "seed": 0, "num_images": None, "batch_size": 16, "num_bootstrap": 200,
        "perceptual": {"kind": "clip", "layers": (0,)},
        "distances": {
            "features": "clip", "num_subsets": 5, "subset_images": 20, "num_neighbours": 3, "seed": 0,
        },
        "floors": {"num_patches": 400, "num_iterations": 3, "max_num_codes": 64},
        "examples": {"num_images": 3, "num_codes": 4, "num_patches": 5},
        "health": {"num_similar": 4, "num_mapped": 100, "num_decoded": 8},
    }  # fmt: skip
    return EvaluateParams.model_validate(base | changes)


def networks() -> MetricNetworks:
    clip: Any = FakeClip()
    return MetricNetworks(clip_features(clip, CPU), ClipPerceptual(clip, (0,)), CPU)


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return evaluate(Palette(), Pictures(45, 0), config(), networks(), Pictures(100, 1))


def test_metrics_have_intervals_floors_ceiling_codes_and_protocol(found: Evaluation) -> None:
    metrics = found.metrics.plain()
    json.dumps(metrics, allow_nan=False)
    rows = [metrics, metrics["floors"]["block_mean"], metrics["floors"]["patch_kmeans"]]
    for row in rows:
        for name in ("psnr", "ssim", "l1", "l2", "clip_distance"):
            assert row[name]["low"] <= row[name]["mean"] <= row[name]["high"]
        assert {
            "fd_clip",
            "kd_clip",
            "kd_clip_std",
            "precision_clip",
            "recall_clip",
            "bits_per_image",
        } <= set(row)
    assert set(metrics["ceiling"]["train_halves"]) == {
        "fd_clip",
        "kd_clip",
        "kd_clip_std",
        "precision_clip",
        "recall_clip",
    }
    assert metrics["bits_per_image"] == pytest.approx(16 * np.log2(24))
    assert metrics["floors"]["patch_kmeans"]["num_codes"] == 24
    assert metrics["protocol"]["distance_images"] == 45
    # The block mean keeps each cell's colour, the palette only its lightness in 8 steps.
    assert metrics["floors"]["block_mean"]["psnr"]["mean"] > metrics["psnr"]["mean"]


def test_codes_are_counted_over_the_whole_split(found: Evaluation) -> None:
    first, second = found.metrics.codes["light"], found.metrics.codes["colour"]
    assert first.num_tokens == second.num_tokens == 45 * 16
    assert second.utilisation == pytest.approx(1 / 3)
    assert second.perplexity == 1
    usage = found.tables["usage"].to_pylist()
    assert [row["count"] for row in usage if row["group"] == "colour"] == [0, 0, 720]
    assert [row["name"] for row in usage if row["group"] == "colour"] == ["red", "green", "blue"]
    assert {row["name"] for row in usage if row["group"] == "light"} == {None}


def test_distances_have_equal_sides_even_where_training_images_are_few() -> None:
    few = evaluate(Palette(), Pictures(45, 0), config(), networks(), Pictures(60, 1)).metrics.plain()
    assert few["protocol"]["distance_images"] == 30
    fewer = evaluate(Palette(), Pictures(45, 0), config(), networks(), Pictures(30, 1)).metrics.plain()
    assert "fd_clip" not in fewer
    assert "ceiling" not in fewer
    assert "15 images a side" in fewer["protocol"]["distances_left_out"]


def test_without_networks_and_training_images_only_what_is_left_is_measured() -> None:
    metrics = evaluate(Palette(), Pictures(5, 0), config(), MetricNetworks(None, None, CPU)).metrics.plain()
    assert list(metrics["floors"]) == ["block_mean"]
    assert metrics["protocol"]["perceptual"] == "none"
    assert "clip_distance" not in metrics


def test_a_capped_floor_appears_under_its_own_name() -> None:
    capped = {"num_patches": 400, "num_iterations": 2, "max_num_codes": 8}
    metrics = evaluate(
        Palette(), Pictures(5, 0), config(floors=capped), MetricNetworks(None, None, CPU), Pictures(30, 1)
    ).metrics.plain()
    assert list(metrics["floors"]) == ["block_mean", "patch_kmeans_capped"]
    assert metrics["floors"]["patch_kmeans_capped"]["wanted_num_codes"] == 24
    assert metrics["floors"]["patch_kmeans_capped"]["bits_per_image"] == 16 * 3


def test_a_decoder_that_gives_nan_is_refused() -> None:
    with pytest.raises(DataError, match="finite"):
        evaluate(Broken(), Pictures(5, 0), config(), MetricNetworks(None, None, CPU))
    with pytest.raises(DataError, match="no images"):
        evaluate(Palette(), Pictures(0, 0), config(), MetricNetworks(None, None, CPU))


def test_results_do_not_depend_on_the_batch_size(found: Evaluation) -> None:
    other = evaluate(Palette(), Pictures(45, 0), config(batch_size=7), networks(), Pictures(100, 1))
    assert other.metrics.psnr.plain() == pytest.approx(found.metrics.psnr.plain(), rel=1e-9)
    assert other.metrics.fd_clip == pytest.approx(found.metrics.fd_clip, rel=1e-4)
    assert other.metrics.codes == found.metrics.codes
    assert other.metrics.floors.patch_kmeans.psnr.plain() == pytest.approx(
        found.metrics.floors.patch_kmeans.psnr.plain()
    )
    assert other.tables["words"].equals(found.tables["words"])


def test_one_pass_for_both_networks_gives_what_two_give(found: Evaluation) -> None:
    clip: Any = FakeClip()
    one = MetricNetworks(clip_features(clip, CPU), ClipPerceptual(clip, (0,)), CPU)
    two = MetricNetworks(clip_features(clip, CPU), ClipPerceptual(FakeClip(), (0,)), CPU)  # type: ignore[arg-type]
    images = Pictures(6, 0).pixels
    shared, apart = one.features_of(images, True), two.features_of(images, True)
    assert clip.shared_passes == 6
    assert shared.for_sets is not None
    assert torch.equal(shared.for_sets, apart.for_sets)  # type: ignore[arg-type]
    assert torch.equal(shared.perceptual[0], apart.perceptual[0])
    assert one.features_of(images, False).for_sets is None


def test_the_folder_holds_the_pictures_behind_the_numbers(found: Evaluation, tmp_path: Path) -> None:
    out = found.write(tmp_path / "evaluation")
    facts = read_manifest(out, EVALUATION).facts
    assert facts["num_images"] == 45
    assert facts["perceptual"] == "clip_distance"
    per_image = read_table(out / "per_image.parquet", PER_IMAGE).to_pylist()
    assert [row["image_id"] for row in per_image] == [f"picture-{i}" for i in range(45)]
    assert np.mean([row["psnr"] for row in per_image]) == pytest.approx(found.metrics.psnr.mean)
    examples = read_table(out / "examples.parquet", EXAMPLES).to_pylist()
    kinds = ("random", "hard", "typical", "easy", "worst")
    assert [row["kind"] for row in examples] == [kind for kind in kinds for _ in range(3)]
    ordered = sorted(row["psnr"] for row in per_image)
    assert [row["psnr"] for row in examples[12:]] == ordered[:3]
    assert read_table(out / "usage.parquet", USAGE).num_rows == 8 + 3


def test_examples_of_difficulty_are_the_same_for_every_tokenizer() -> None:
    floor = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    one, two = (choose_examples(np.array(psnr), floor, 1, 0) for psnr in ([9, 8, 7, 6, 5], [5, 6, 7, 8, 9]))
    assert one[:4] == two[:4]
    assert dict(one) | {"random": 0} == {"random": 0, "hard": 1, "typical": 4, "easy": 0, "worst": 4}
    assert dict(two)["worst"] == 0


def test_every_example_has_the_error_of_its_pictures(found: Evaluation) -> None:
    examples = found.tables["examples"].to_pylist()
    for row in examples:
        original, made = (
            torch.from_numpy(decode_png(row[key])).permute(2, 0, 1)[None]
            for key in ("original", "reconstruction")
        )
        assert psnr(original, made)[0] == pytest.approx(row["psnr"])


def test_patches_of_a_code_are_cells_that_carry_it(found: Evaluation, tmp_path: Path) -> None:
    out = found.write(tmp_path / "evaluation")
    rows = read_table(out / "words.parquet", WORDS).to_pylist()
    assert [row["name"] for row in rows if row["group"] == "colour"] == ["blue"]
    counts = [row["count"] for row in rows if row["group"] == "light"]
    assert counts == sorted(counts, reverse=True)
    for row in rows:
        assert 1 <= len(row["patches"]) <= 5
        for patch in row["patches"]:
            cell = torch.from_numpy(decode_png(patch)).permute(2, 0, 1)[None]
            assert cell.shape == (1, 3, 4, 4)
            if row["group"] == "light":
                light = int((to_float(cell).mean() + 1) / 2 * 8)
                assert min(light, 7) == row["code"]


def test_each_code_is_fed_to_the_decoder(found: Evaluation) -> None:
    rows = found.tables["decoded"].to_pylist()
    light = [row for row in rows if row["group"] == "light"]
    assert len(light) == 4
    assert len(rows) == 4 + 3
    for row in light:
        level = round((row["codes"][0] + 0.5) / 8 * 255)
        assert np.abs(decode_png(row["picture"]).astype(int) - level).max() <= 1
        assert row["names"] == [None, "blue"]  # the other group is held at its most used code
    assert found.facts["map"]["light"] == "8 codes are too few for t-SNE, it needs 50"


def test_without_health_params_no_pictures_of_codes_are_kept() -> None:
    bare = evaluate(Palette(), Pictures(5, 0), config(health=None), MetricNetworks(None, None, CPU))
    assert bare.tables["similarity"].num_rows == bare.tables["decoded"].num_rows == 0
    assert bare.facts["map"] == {"light": "not asked for", "colour": "not asked for"}
    assert 0 <= bare.metrics.codes["light"].tail_mass <= 0.5


def test_writing_twice_gives_the_same_bytes(found: Evaluation, tmp_path: Path) -> None:
    again = evaluate(Palette(), Pictures(45, 0), config(), networks(), Pictures(100, 1))
    first = read_manifest(found.write(tmp_path / "a"), EVALUATION).files
    assert first == read_manifest(again.write(tmp_path / "b"), EVALUATION).files
    assert again.metrics == found.metrics
