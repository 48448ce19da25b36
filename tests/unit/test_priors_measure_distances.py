"""Density, coverage, moments in batches, and the FID from a whole training split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vqpipe.metrics.distances import DistanceParams, Features, feature_distances
from vqpipe.priors import measure_distances as module
from vqpipe.priors.measure_distances import Moments, density_coverage, sample_distances

CPU, DIM = torch.device("cpu"), 6


def params(**changes: object) -> DistanceParams:
    base = {"features": "clip", "num_subsets": 4, "subset_images": 20, "num_neighbours": 3, "seed": 0}
    return DistanceParams.model_validate(base | changes)


def features(network: str) -> Features:
    names = {
        "clip": ("fd_clip", "kd_clip", "precision_clip", "recall_clip"),
        "inception": ("fid", "kid", "precision_inception", "recall_inception"),
    }[network]
    keys = ("frechet", "kernel", "precision", "recall")
    return Features(lambda images: images, network, DIM, dict(zip(keys, names, strict=True)), CPU)


def rows(count: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)) + shift


def naive_density_coverage(generated: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    """Equations 4 and 5 of Naeem et al. (2020), image by image."""
    inside, covered = 0, 0
    for at in range(len(real)):
        to_real = sorted(float((real[at] - real[i]).double().norm()) for i in range(len(real)) if i != at)
        within = [float((real[at] - one).double().norm()) <= to_real[k - 1] for one in generated]
        inside += sum(within)
        covered += any(within)
    return inside / (k * len(generated)), covered / len(real)


@pytest.mark.parametrize("shift", [0.0, 1.0, 9.0])
def test_density_and_coverage_follow_their_definition(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = rows(30, 0, shift), rows(40, 1)
    expected = naive_density_coverage(generated, real, 3)
    assert density_coverage(generated, real, 3) == pytest.approx(expected)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert density_coverage(generated, real, 3) == pytest.approx(expected)
    assert (shift < 9) == (expected[1] > 0)


def test_one_image_drawn_again_and_again_is_dense_and_covers_little() -> None:
    real = rows(40, 0)
    density, coverage = density_coverage(real[:1].expand(40, -1), real, 3)
    assert density > 1
    assert coverage < 0.3
    assert density_coverage(real, real, 3) == pytest.approx((4 / 3, 1.0)), "an image and its 3 neighbours"


@pytest.mark.parametrize("size", [1, 7, 50])
def test_moments_do_not_depend_on_the_batches(size: int) -> None:
    whole = rows(50, 0, shift=1e4)
    found = Moments.of(whole.split(size), DIM).statistics()
    np.testing.assert_allclose(found["mu"], whole.double().mean(0).numpy(), rtol=1e-12)
    np.testing.assert_allclose(found["sigma"], np.cov(whole.double().numpy().T), rtol=1e-8, atol=1e-10)


def test_the_fid_of_a_whole_split_is_the_fid_where_n_is_equal() -> None:
    made, real = rows(60, 0, 0.5), rows(60, 1)
    train = Moments.of(real.split(16), DIM)
    found = sample_distances(made, real, features("inception"), params(features="inception"), train)
    expected = feature_distances(made, real, features("inception"), params(features="inception"))
    assert found.fid_train == pytest.approx(expected["fid"], rel=1e-9)
    assert found.num_train_images == 60
    assert found.density_inception is not None
    assert found.density_clip is found.fd_clip is None


def test_clip_has_no_fid_and_too_few_images_have_a_reason() -> None:
    found = sample_distances(rows(60, 0), rows(60, 1), features("clip"), params()).plain()
    assert set(found) == {
        "fd_clip", "kd_clip", "kd_clip_std", "precision_clip", "recall_clip", "density_clip", "coverage_clip",
    }  # fmt: skip
    few = sample_distances(rows(6, 0), rows(6, 1), features("clip"), params())
    assert few.plain() == {"not_measured": "6 images a side; features of 6 dimensions need more than 6"}
