"""Distances between sets of images: names, refusals, independence of the batch size, and known values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vqpipe.errors import DataError, MismatchError, SetupError
from vqpipe.metrics import distances as module
from vqpipe.metrics.distances import (
    INCEPTION_FILE,
    DistanceParams,
    FeatureRows,
    Features,
    clip_features,
    feature_distances,
    load_features,
    why_no_distances,
)
from vqpipe.runtime.seeds import derive

CPU = torch.device("cpu")


def params(**changes: object) -> DistanceParams:
    base = {"features": "clip", "num_subsets": 10, "subset_images": 50, "num_neighbours": 3, "seed": 0}
    return DistanceParams.model_validate(base | changes)


class FakeClip(nn.Module):
    """A linear map of the mean-pooled image: embeddings whose distribution is known."""

    id, embed_dim = "fake:unit:0", 6

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(48, 6, generator=generator))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        assert images.min() >= -1
        assert images.max() <= 1
        return nn.functional.adaptive_avg_pool2d(images, 4).flatten(1) @ self.weight


def distances(
    generated: torch.Tensor, real: torch.Tensor, features: Features, params: DistanceParams, batch_size: int
) -> dict[str, float]:
    sets = []
    for images in (generated, real):
        rows = FeatureRows(len(images), features.dim)
        for batch in images.split(batch_size):
            rows.add(features.extract(batch))
        sets.append(rows.rows)
    return feature_distances(*sets, features, params)


@pytest.fixture
def features() -> Features:
    return clip_features(FakeClip(), CPU)  # type: ignore[arg-type]


def images(n: int, seed: int, low: int = 0, high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)


def test_names_are_those_the_features_have_earned(features: Features) -> None:
    found = distances(images(60, 0), images(60, 1), features, params(), batch_size=16)
    assert sorted(found) == ["fd_clip", "kd_clip", "kd_clip_std", "precision_clip", "recall_clip"]
    assert all(np.isfinite(value) for value in found.values())
    alone = distances(images(60, 0), images(60, 1), features, params(subset_images=60), batch_size=16)
    assert set(found) - set(alone) == {"kd_clip_std"}, "subsets of all images do not differ"


def test_results_do_not_depend_on_the_batch_size(features: Features) -> None:
    sets = images(64, 0), images(64, 1, 40, 256)
    whole = distances(*sets, features, params(), batch_size=64)
    for batch_size in (1, 7):
        assert distances(*sets, features, params(), batch_size=batch_size) == pytest.approx(
            whole, rel=1e-4, abs=1e-6
        )


def test_frechet_distance_of_shifted_gaussians_is_the_squared_shift(features: Features) -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(400, 6, dtype=torch.float64, generator=generator)
    found = feature_distances(real + 2.0, real, features, params())
    assert found["fd_clip"] == pytest.approx(6 * 4.0, rel=1e-6)
    # Covariance scaled by 9: the trace term is d (3 - 1)^2 for a covariance of 1, here of the sample.
    centred = real - real.mean(dim=0)
    expected = 4 * torch.cov(centred.T).trace().item()
    assert feature_distances(3 * centred, centred, features, params())["fd_clip"] == pytest.approx(
        expected, rel=1e-6
    )


def test_equal_sets_are_at_distance_zero_and_disjoint_ones_share_nothing(features: Features) -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(200, 6, dtype=torch.float64, generator=generator)
    same = feature_distances(real.clone(), real, features, params())
    assert same["fd_clip"] == pytest.approx(0, abs=1e-6)
    assert same["precision_clip"] == same["recall_clip"] == 1
    far = feature_distances(real + 100, real, features, params())
    assert far["precision_clip"] == far["recall_clip"] == 0
    assert far["kd_clip"] > 1


@pytest.mark.parametrize("block", [7, 4096])
def test_distances_in_blocks_are_those_of_torch_fidelity(
    features: Features, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    monkeypatch.setattr(module, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    generated, real = (torch.randn(60, 6, generator=generator) * scale for scale in (1.3, 1.0))
    found = feature_distances(generated, real, features, params())
    doubles = generated.double(), real.double()
    frechet = fid_statistics_to_metric(*map(fid_features_to_statistics, doubles), verbose=False)
    seed = derive(params().seed, "kernel distance") % (1 << 32)
    kernel = kid_features_to_metric(
        *doubles, kid_subsets=params().num_subsets, kid_subset_size=params().subset_images, rng_seed=seed,
        verbose=False,
    )  # fmt: skip
    manifold = prc_features_to_metric(*doubles, prc_neighborhood=params().num_neighbours, verbose=False)
    assert found["kd_clip"] == kernel["kernel_inception_distance_mean"]
    assert found["kd_clip_std"] == kernel["kernel_inception_distance_std"]
    assert found["precision_clip"] == pytest.approx(manifold["precision"], abs=1e-12)
    assert found["recall_clip"] == pytest.approx(manifold["recall"], abs=1e-12)
    expected = frechet["frechet_inception_distance"]
    assert found["fd_clip"] == (expected if block > 60 else pytest.approx(expected, rel=1e-9))


def test_precision_and_recall_know_which_side_is_generated(features: Features) -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(300, 6, dtype=torch.float64, generator=generator)
    collapsed = 0.05 * torch.randn(300, 6, dtype=torch.float64, generator=generator)
    found = feature_distances(collapsed, real, features, params())
    assert found["precision_clip"] > 0.9
    assert found["recall_clip"] < 0.1


def test_unequal_and_too_small_sets_are_refused_with_the_reason(features: Features) -> None:
    with pytest.raises(MismatchError, match="same number"):
        distances(images(60, 0), images(59, 1), features, params(), batch_size=8)
    for count, changes, word in (
        (6, {}, "dimensions"),
        (49, {}, "subsets"),
        (8, {"subset_images": 2, "num_neighbours": 8}, "neighbours"),
    ):
        with pytest.raises(MismatchError, match=word):
            distances(images(count, 0), images(count, 1), features, params(**changes), batch_size=8)
    assert why_no_distances(50, features, params()) is None


def test_features_that_are_not_finite_are_refused(features: Features) -> None:
    bad = torch.zeros(60, 6)
    bad[3, 2] = torch.nan
    with pytest.raises(DataError, match="finite"):
        feature_distances(bad, torch.zeros(60, 6), features, params())


def test_inception_without_its_weights_is_refused_by_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(SetupError, match=INCEPTION_FILE):
        load_features(params(features="inception"), None, CPU)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / INCEPTION_FILE).write_bytes(b"not weights")
    with pytest.raises(SetupError, match="cannot be read"):
        load_features(params(features="inception"), None, CPU)
    with pytest.raises(MismatchError, match="no CLIP"):
        load_features(params(), None, CPU)


@pytest.mark.slow
def test_inception_weights_on_disk_are_used_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / INCEPTION_FILE
    with monkeypatch.context() as patched:
        empty = tmp_path / "empty.pth"
        torch.save({}, empty)
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        random = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=empty
        )
    torch.save(random.state_dict(), path)
    found = load_features(params(features="inception"), None, CPU)
    assert found.names["frechet"] == "fid"
    assert found.names["kernel"] == "kid"
    pictures = images(2, 0)
    torch.testing.assert_close(found.extract(pictures), random(pictures)[0])
    assert found.dim == found.extract(pictures).shape[1]
