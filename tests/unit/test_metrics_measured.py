"""Digests of what was measured, and intervals: equal for equal inputs, different for others, and of known coverage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vqpipe.errors import ArtifactError, DataError
from vqpipe.evaluation.measure import EvaluationMetrics, ReplacedMetrics
from vqpipe.metrics.measured import DIGITS, ImagesDigest, interval, intervals, measured_with, text_digest
from vqpipe.training.clip import ClipMetrics
from vqpipe.vision.cluster import ClusterMetrics
from vqpipe.vision.patches import PatchesMetrics

IMAGES = torch.arange(5 * 3 * 4 * 4, dtype=torch.uint8).view(5, 3, 4, 4)
NONE = ImagesDigest().images("none")
PROTOCOL = {"version": 1, "distances": {"num_subsets": 5, "layers": [0, 1]}}


def digest(*batches: torch.Tensor, split: str = "test") -> str:
    found = ImagesDigest()
    for batch in batches:
        found.add(batch)
    return found.images(split).digest


def test_order_and_batches_do_not_count_and_every_pixel_does() -> None:
    whole = digest(IMAGES)
    assert whole == digest(IMAGES[:2], IMAGES[2:]) == digest(IMAGES.flip(0)) == digest(IMAGES, split="images")
    other = IMAGES.clone()
    other[3, 2, 1, 0] ^= 1
    others = [
        digest(other), digest(IMAGES[:4]), digest(IMAGES, IMAGES[:1]), digest(IMAGES.flip(3)),
        digest(IMAGES.view(5, 3, 2, 8)), digest(IMAGES.flip(1)),
    ]  # fmt: skip
    assert len({whole, *others}) == 1 + len(others)
    assert len(whole) == DIGITS


def test_the_record_has_the_parts_that_people_read() -> None:
    found = ImagesDigest()
    found.add(IMAGES)
    assert found.images("test").plain() | {"digest": ""} == {
        "split": "test", "num_images": 5, "pixels": "3 x 4 x 4", "digest": "",
    }  # fmt: skip
    assert found.images("test", {"captions": "ab"}).plain()["captions"] == "ab"


def test_the_digest_does_not_depend_on_the_machine() -> None:
    assert digest(IMAGES) == "69767c0522878a9c"
    assert text_digest(["b", "a"]) == text_digest(["a", "b"]) == "18d79cb747ea174c"
    assert measured_with(NONE, PROTOCOL).protocol["digest"] == "dbd239a16b41ee98"


def test_any_part_of_the_protocol_counts_and_its_order_does_not() -> None:
    own = measured_with(NONE, PROTOCOL).protocol
    assert own["distances"] == {"num_subsets": 5, "layers": "0, 1"}
    turned = {"distances": dict(reversed(PROTOCOL["distances"].items())), "version": 1}  # type: ignore[attr-defined]
    assert measured_with(NONE, turned).protocol["digest"] == own["digest"]
    for other in (PROTOCOL | {"version": 2}, PROTOCOL | {"x": 1}, {"version": 1}):
        assert measured_with(NONE, other).protocol["digest"] != own["digest"]


def test_interval_is_seeded_and_contains_the_mean() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    first = interval(values, 500, seed=1)
    assert first == interval(values, 500, seed=1)
    assert first != interval(values, 500, seed=2)
    assert first.low < first.mean < first.high
    # The half width of a 95 % interval of a mean is 1.96 sigma / sqrt(n).
    assert first.high - first.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        found = interval(rng.exponential(1.0, 100), 300, seed=trial)
        hits += found.low <= 1.0 <= found.high
    assert 175 <= hits <= 199


def test_interval_of_few_values_in_chunks_equals_one_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = interval(values, 200, seed=0)
    monkeypatch.setattr("vqpipe.metrics.measured.CHUNK", 120)
    assert interval(values, 200, seed=0).plain() == pytest.approx(whole.plain())


def test_interval_refuses_nothing_and_nan() -> None:
    with pytest.raises(DataError):
        interval(np.zeros(0), 100, seed=0)
    with pytest.raises(DataError):
        intervals({"psnr": np.array([1.0, np.nan])}, 100, seed=0)


COMMITTED = Path(__file__).parents[2] / "artifacts/metrics"
MODELS = {
    "clip": ClipMetrics,
    "patches": PatchesMetrics,
    "cluster": ClusterMetrics,
    "evaluate": EvaluationMetrics,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_models_read_the_committed_metrics_and_write_them_as_they_are(name: str) -> None:
    files = sorted((COMMITTED / name).glob("*.json")) or [COMMITTED / f"{name}.json"]
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        content.pop("seal")
        assert MODELS[name].read(file).plain() == content


def test_the_psnr_of_replaced_tokens_is_found_by_rank() -> None:
    one = {"mean": 20.0, "low": 19.0, "high": 21.0}
    found = ReplacedMetrics.of({"num_images": 3, "psnr_0": one, "psnr_10": one}, "here")
    assert found.psnr(10) == interval(np.array([20.0]), 100, 0).model_copy(update={"low": 19.0, "high": 21.0})
    assert found.psnr(50) is None
    with pytest.raises(ArtifactError, match="psnr_0"):
        ReplacedMetrics.of({"num_images": 3, "psnr_0": 20.0}, "here")
