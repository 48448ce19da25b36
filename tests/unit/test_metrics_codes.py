"""Code usage counted by hand, and codebook health compared with naive forms, for every quantizer."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from tests.recipes import Recipe, every_recipe, make_tokenizer
from vqpipe.artifacts.specs.evaluation import DECODED, SIMILARITY, USAGE, USAGE_CURVE
from vqpipe.artifacts.tables import to_table
from vqpipe.errors import MismatchError
from vqpipe.evaluation import codes as room
from vqpipe.evaluation.codes import (
    HealthParams,
    code_columns,
    curve_rows,
    decoded_rows,
    measure_codes,
    similarity_rows,
)
from vqpipe.evaluation.reconstructions import decode_to_uint8
from vqpipe.metrics.codes import (
    CodeUsage,
    bits_per_image,
    cluster_order,
    code_geometry,
    code_metrics,
    cosine_matrix,
    effective_rank,
    entropy_bits,
    project,
    share_for_90_percent,
    shown_codes,
    tail_mass,
    too_few_to_project,
    usage_curve,
    usage_metrics,
)


def test_usage_is_counted_per_group_over_batches() -> None:
    usage = CodeUsage((4, 3))
    usage.add(torch.tensor([[[[0, 0], [1, 1]], [[2, 2], [2, 2]]]]))
    usage.add(torch.tensor([[[[0, 3], [1, 1]], [[2, 0], [2, 2]]]]))
    assert [counts.tolist() for counts in usage.counts] == [[3, 4, 0, 1], [1, 0, 7]]
    first, second = map(usage_metrics, usage.counts)
    assert first.utilisation == 3 / 4
    assert second.utilisation == 2 / 3
    assert first.num_tokens == second.num_tokens == 8
    assert first.uniform_expectation == pytest.approx(1 - math.exp(-2))


def test_perplexity_counts_equally_used_codes() -> None:
    assert usage_metrics(np.array([5, 5, 5, 5, 0, 0])).perplexity == pytest.approx(4)
    assert usage_metrics(np.array([9, 0])).perplexity == 1
    assert entropy_bits(np.array([1, 1, 2])) == pytest.approx(1.5)
    assert usage_metrics(np.zeros(3, dtype=np.int64)).utilisation == 0


def test_uniform_draws_reach_the_uniform_expectation() -> None:
    usage = CodeUsage((1000,))
    generator = torch.Generator().manual_seed(0)
    usage.add(torch.randint(0, 1000, (10, 1, 10, 15), generator=generator))
    found = usage_metrics(usage.counts[0])
    assert found.utilisation == pytest.approx(found.uniform_expectation, abs=0.03)


@pytest.mark.parametrize(
    "bad", [torch.tensor([[[[4]]]]), torch.tensor([[[[-1]]]]), torch.zeros(1, 2, 1, 1, dtype=torch.long)]
)
def test_indices_that_do_not_fit_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(MismatchError):
        CodeUsage((4,)).add(bad)


def test_bits_per_image_sums_groups() -> None:
    assert bits_per_image((1024,), (8, 8)) == 640
    assert bits_per_image((32, 8), (4, 2)) == 8 * (5 + 3)


RECIPES = every_recipe()


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_usage_curve_counts_the_codes_of_the_first_images() -> None:
    rng = np.random.default_rng(0)
    indices = torch.from_numpy(rng.zipf(1.5, (37, 3, 2)).clip(1, 50) - 1)
    order = rng.permutation(37)
    curve = usage_curve(indices, 60, order)
    assert curve.images[0] == 1
    assert curve.images[-1] == 37
    assert (np.diff(curve.images) > 0).all()
    seen = [len(set(indices[order[:n]].reshape(-1).tolist())) for n in curve.images]
    assert curve.used.tolist() == seen
    assert curve.tokens.tolist() == (curve.images * 6).tolist()
    np.testing.assert_allclose(curve.uniform, [60 * (1 - math.exp(-n * 6 / 60)) for n in curve.images])


def test_the_usage_curve_refuses_what_it_cannot_count() -> None:
    indices = torch.tensor([[[0]], [[4]]])
    with pytest.raises(MismatchError, match="order"):
        usage_curve(indices, 5, np.array([0, 0]))
    with pytest.raises(MismatchError, match="out of range"):
        usage_curve(indices, 4, np.arange(2))


def test_tail_mass_and_share_for_90_percent() -> None:
    even = np.full(10, 7)
    assert tail_mass(even) == pytest.approx(0.5)
    assert share_for_90_percent(even) == pytest.approx(0.9)
    skew = np.array([0, 90, 0, 4, 6])
    assert tail_mass(skew) == 0.0
    assert share_for_90_percent(skew) == pytest.approx(1 / 5)
    odd = np.array([5, 1, 2, 3, 4])  # the less used half of five codes is two: 1 and 2
    assert tail_mass(odd) == pytest.approx(3 / 15)
    # 13.5 of 15 need 14 tokens: 5, 4, 3 and 2.
    assert share_for_90_percent(odd) == pytest.approx(4 / 5)
    assert tail_mass(np.zeros(4, dtype=np.int64)) == share_for_90_percent(np.zeros(4, dtype=np.int64)) == 0.0


def test_the_effective_rank_is_that_of_the_singular_values() -> None:
    codes = drawn(50, 6) * torch.tensor([4.0, 2.0, 1.0, 0.5, 0.1, 0.0])
    singular = torch.linalg.svdvals((codes - codes.mean(0)).double())
    p = singular[singular > 1e-9] / singular.sum()
    assert effective_rank(codes) == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-5)
    assert effective_rank(torch.ones(5, 3)) == 0.0
    square = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert effective_rank(square) == pytest.approx(2.0)


def test_geometry_is_that_of_all_pairs() -> None:
    codes = drawn(40, 5)
    lie = code_geometry(codes, np.random.default_rng(0))
    cosine = cosine_matrix(codes)
    np.fill_diagonal(cosine, -2)
    distance = torch.cdist(codes.double(), codes.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(torch.inf)
    assert not lie.sampled
    np.testing.assert_allclose(lie.norms, codes.double().norm(dim=1).numpy())
    assert lie.nearest_code.tolist() == cosine.argmax(1).tolist()
    np.testing.assert_allclose(lie.nearest_similarity, cosine.max(1), atol=1e-6)
    np.testing.assert_allclose(lie.nearest_distance, distance.min(1).values.numpy())
    np.fill_diagonal(cosine, 0)
    assert lie.coherence == pytest.approx(np.abs(cosine).max(), abs=1e-6)


def test_a_large_codebook_is_compared_from_a_sample_that_its_names_tell() -> None:
    codes = drawn(1000, 4)
    whole = code_geometry(codes, np.random.default_rng(0))
    some = code_geometry(codes, np.random.default_rng(0), max_pairs=100_000)
    assert some.sampled
    assert len(some.queries) == 100
    assert some.nearest_code.tolist() == whole.nearest_code[some.queries].tolist()
    found = code_metrics(np.ones(1000, dtype=np.int64), some).plain()
    assert {"mutual_coherence_sampled", "nearest_similarity_sampled", "nearest_distance_sampled"} <= set(
        found
    )
    assert "nearest_similarity" not in found
    assert found["perplexity_share"] == pytest.approx(1)


def test_the_tiles_of_the_comparison_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = drawn(33, 5)
    whole = code_geometry(codes, np.random.default_rng(0))
    monkeypatch.setattr("vqpipe.metrics.codes.TILE_ENTRIES", 33 * 4)
    tiled = code_geometry(codes, np.random.default_rng(0))
    assert tiled.nearest_code.tolist() == whole.nearest_code.tolist()
    np.testing.assert_allclose(tiled.nearest_similarity, whole.nearest_similarity, atol=1e-6)
    np.testing.assert_allclose(tiled.nearest_distance, whole.nearest_distance)
    assert tiled.coherence == pytest.approx(whole.coherence, abs=1e-6)


def test_one_code_and_codes_of_norm_zero_are_no_error() -> None:
    one = code_metrics(np.array([3]), code_geometry(torch.ones(1, 4), np.random.default_rng(0))).plain()
    assert "nearest_similarity" not in one
    zeros = code_geometry(torch.zeros(4, 3), np.random.default_rng(0))
    found = code_metrics(np.array([1, 0, 0, 0]), zeros).plain()
    assert all(math.isfinite(value) for value in found.values())
    assert "norm_ratio" not in found
    assert zeros.nearest_similarity.tolist() == [0.0] * 4


def test_codes_are_shown_in_the_order_of_use() -> None:
    assert shown_codes([3, 0, 5, 3], 3).tolist() == [2, 0, 3]


def test_similar_codes_stand_together() -> None:
    centres = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]])
    codes = (centres.repeat(4, 1) + 0.1 * drawn(12, 3)).float()
    order = cluster_order(cosine_matrix(codes))
    assert sorted(order.tolist()) == list(range(12))
    blocks = (order % 3).reshape(3, 4)
    assert (blocks == blocks[:, :1]).all()


def test_the_map_of_codes_has_the_same_bytes_for_any_number_of_threads() -> None:
    codes = drawn(80, 6).numpy()
    with threadpool_limits(1):
        one = project(codes, 3)
    with threadpool_limits(4):
        four = project(codes, 3)
    assert one.tobytes() == four.tobytes()
    assert one.shape == (80, 2)
    assert too_few_to_project(49) is not None
    assert too_few_to_project(50) is None


@pytest.mark.parametrize("recipe", [pytest.param(r, id=name) for name, r in RECIPES.items()])
def test_every_quantizer_has_its_health_measured(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer(recipe)
    monkeypatch.setattr(room, "code_geometry", partial(code_geometry, max_pairs=1 << 22))
    side = tokenizer.resolution
    indices = tokenizer.encode(
        torch.rand(6, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    )
    usage, books = CodeUsage(tokenizer.num_codes), tokenizer.codebooks()
    usage.add(indices)
    config = HealthParams(num_similar=5, num_mapped=0, num_decoded=9)
    health = measure_codes(usage, books, 0)
    columns, absent = code_columns(usage, books, health, config, 0)
    assert to_table(USAGE, columns, {}).num_rows == sum(tokenizer.num_codes)
    assert set(absent.values()) == {"not asked for"}
    assert len({book.group for book in books}) == len(books) == len(health.metrics)
    for found, counts in zip(health.metrics, usage.counts, strict=True):
        assert found.perplexity_share == pytest.approx(found.perplexity / len(counts))
        assert all(math.isfinite(value) for value in found.plain().values())
    curve = to_table(USAGE_CURVE, curve_rows(indices, books, tokenizer.num_codes, 0), {}).to_pylist()
    for book, counts in zip(books, usage.counts, strict=True):
        last = [row for row in curve if row["group"] == book.group][-1]
        assert (last["images"], last["used"]) == (6, (counts > 0).sum())
    similar = to_table(SIMILARITY, similarity_rows(usage, books, config), {}).to_pylist()
    assert len(similar) == sum(min(5, count) for count in tokenizer.num_codes)
    rows: list[dict[str, Any]] = decoded_rows(
        lambda codes: decode_to_uint8(tokenizer, codes), indices, usage, books, config, 4
    )
    assert 1 <= to_table(DECODED, rows, {}).num_rows <= max(9, len(books))
    for row in rows:
        if row["group"] == "pair":
            same = (indices[:, 0] == row["codes"][0]) & (indices[:, 1] == row["codes"][1])
            assert row["count"] == int(same.sum())
        else:
            group = [book.group for book in books].index(row["group"])
            assert row["count"] == usage.counts[group][row["codes"][group]]
