"""Holes in token grids, errors inside them, and completions that keep what is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small_priors import GRID, ONE, TWO, images, labels, model
from tests.unit.test_priors_measure_distances import CPU, features, params
from vqpipe.data.images import decode_png
from vqpipe.evaluation.reconstructions import MetricNetworks
from vqpipe.metrics.distances import Features
from vqpipe.metrics.images import PSNR_IDENTICAL, psnr
from vqpipe.models.perceptual import ClipPerceptual
from vqpipe.priors.contract import Condition
from vqpipe.priors.measure_completion import (
    CompletedPictures,
    Hole,
    completed_row,
    draw_completions,
    holes,
    known_outside,
    measure_completion,
    metric_networks,
)
from vqpipe.runtime.seeds import torch_rng

SIDE, COUNT = 8, 12
SQUARE = (4, 4)


def test_holes_by_what_a_prior_can_be_given() -> None:
    assert holes((16, 16), "none") == {}
    assert holes((16, 16), "prefix") == {"lower_half": Hole((8, 16), (0, 16))}
    assert holes((16, 12), "any") == {
        "lower_half": Hole((8, 16), (0, 12)),
        "upper_half": Hole((0, 8), (0, 12)),
        "inner_square": Hole((4, 12), (3, 9)),
    }
    assert set(holes((3, 4), "any")) == {"lower_half", "upper_half", "inner_square"}


@pytest.mark.parametrize(("grid", "left"), [((1, 4), set()), ((2, 2), {"lower_half", "upper_half"})])
def test_a_hole_that_hides_nothing_or_everything_is_left_out(grid: tuple[int, int], left: set[str]) -> None:
    assert set(holes(grid, "any")) == left


def test_a_hole_is_the_same_part_at_any_resolution() -> None:
    hole = Hole((1, 3), (0, 2))
    mask = hole.mask(SQUARE)
    assert int(mask.sum()) == 4
    for side in (4, 8, 12):
        scaled = mask.repeat_interleave(side // 4, 0).repeat_interleave(side // 4, 1)
        assert hole.cut(scaled, SQUARE).all()
        assert hole.cut(scaled, SQUARE).numel() == int(scaled.sum())
    assert hole.cut(torch.zeros(5, 2, 2), SQUARE).shape == (5, 2, 1), "rows 0.5 to 1.5 are rounded"


def decode(codes: Tensor) -> Tensor:
    """Each cell in the grey of its code."""
    return (
        codes[:, 0]
        .mul(20)
        .to(torch.uint8)[:, None]
        .repeat(1, 3, 1, 1)
        .repeat_interleave(2, 2)
        .repeat_interleave(2, 3)
    )


class Means(nn.Module):
    """Features that are the means of the quarters of the red channel, of which there are six."""

    def forward(self, images: Tensor) -> Tensor:
        cells = nn.functional.adaptive_avg_pool2d(images[:, :1].float(), (2, 3))
        return cells.flatten(1)


class TokenClip:
    """Stands for a CLIP of which a block's activations are the pixels of cells of 2 x 2."""

    num_blocks, patch_grid = 2, (4, 4)

    def check_layers(self, layers: Any) -> None:
        pass

    def perceptual_features(self, images: Tensor, layers: Any) -> list[Tensor]:
        cells = nn.functional.unfold(images, 2, stride=2).transpose(1, 2)
        return [cells * (1 + layer) for layer in layers]


class Pixels(ClipPerceptual):
    """Compares the activations as they are."""

    def normalise(self, activations: Any) -> list[Tensor]:
        return list(activations)


def networks(with_clip: bool) -> MetricNetworks:
    base = features("clip")
    own = Features(Means(), "means", 6, base.names, CPU)
    clip: Any = TokenClip()
    return MetricNetworks(own, Pixels(clip, range(2)) if with_clip else None, CPU)


def codes(seed: int, count: int = COUNT) -> Tensor:
    return torch.randint(0, 12, (count, 1, *SQUARE), generator=torch.Generator().manual_seed(seed))


def small(**changes: object) -> Any:
    return params(subset_images=8, **changes)


@pytest.mark.parametrize("batch", [5, COUNT])
def test_errors_are_those_inside_the_hole(batch: int) -> None:
    hole, true = Hole((1, 3), (0, 2)), codes(0)
    mask = hole.mask(SQUARE)
    real = decode(true)
    fillings = {
        "samples": torch.where(mask, codes(1), true),
        "unigram_samples": torch.where(mask, codes(2), true),
        "another_image": torch.where(mask, true.roll(-1, 0), true),
    }
    found = measure_completion(
        {"inner_square": fillings}, true, {"inner_square": hole},
        lambda rows: real[rows], decode, networks(True), small(), batch,
    )["inner_square"]  # fmt: skip
    assert (found.num_images, found.hole_share) == (COUNT, 0.25)
    assert found.reconstructions.psnr == PSNR_IDENTICAL
    assert found.reconstructions.clip_distance == 0
    assert found.reconstructions.distances.coverage_clip == 1
    for name, filled in fillings.items():
        own = getattr(found, name)
        made = decode(filled)
        parts = real[:, :, 2:6, 0:4].contiguous(), made[:, :, 2:6, 0:4].contiguous()
        assert own.psnr == pytest.approx(psnr(*parts).mean())
        difference = (parts[0].double() - parts[1].double()).abs().mean() * 2 / 255
        assert own.l1 == pytest.approx(float(difference))
        square = ((parts[0].double() - parts[1].double()) / 127.5).square().mean() * (1 + 4) / 2
        assert own.clip_distance == pytest.approx(float(square), rel=1e-5)
        assert own.distances.fd_clip is not None
        assert own.distances.fd_clip > 1e-3


def test_without_a_vit_or_enough_images_there_are_errors_alone() -> None:
    hole, true = Hole((2, 4), (0, 4)), codes(0, 5)
    same = dict.fromkeys(("samples", "unigram_samples", "another_image"), true)
    found = measure_completion(
        {"lower_half": same}, true, {"lower_half": hole}, lambda rows: decode(true)[rows], decode,
        networks(False), small(), 64,
    )["lower_half"]  # fmt: skip
    assert found.samples.clip_distance is None
    assert found.samples.psnr == PSNR_IDENTICAL
    assert found.samples.distances.plain().keys() == {"not_measured"}
    clip: Any = type("ResNet", (), {"num_blocks": 0})()
    assert metric_networks(features("clip"), clip, CPU).perceptual is None


@pytest.mark.parametrize("num_codes", [ONE, TWO])
def test_completions_keep_what_is_known_and_differ_in_the_hole(num_codes: tuple[int, ...]) -> None:
    prior, true = model(num_codes), images(num_codes, 3)
    mask = holes(GRID, prior.known_tokens)["lower_half"].mask(GRID)
    condition = Condition(labels=labels(3))
    known = known_outside(true, mask, condition)
    assert known.tokens is not None
    assert torch.equal(known.tokens < 0, mask.expand_as(true))
    assert known.labels is condition.labels
    found = draw_completions(prior, true, mask, condition, torch_rng(0, "test"), each=5)
    assert found.shape == (15, *true.shape[1:])
    kept = found.view(3, 5, *true.shape[1:])
    assert torch.equal(kept[..., ~mask], true[:, None].expand_as(kept)[..., ~mask])
    assert all(len({tuple(one.flatten().tolist()) for one in own}) > 1 for own in kept)
    hidden = torch.where(mask, 0, true)
    again = draw_completions(prior, hidden, mask, condition, torch_rng(0, "test"), each=5)
    assert torch.equal(again, found), "the codes in the hole are not looked at"


def test_a_row_of_completions_is_pngs_with_what_was_asked() -> None:
    picture = torch.arange(3 * SIDE * SIDE, dtype=torch.uint8).view(3, SIDE, SIDE)
    one = CompletedPictures(
        "an id", "lower_half", picture, picture + 1, torch.full((SIDE, SIDE), 255, dtype=torch.uint8),
        torch.stack([picture, picture + 2]), 1, "a caption",
    )  # fmt: skip
    row = completed_row(one, ("red", "blue"))
    assert (row["image_id"], row["hole"], row["label_name"], row["caption"]) == (
        "an id",
        "lower_half",
        "blue",
        "a caption",
    )
    np.testing.assert_array_equal(decode_png(row["original"]), picture.permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(decode_png(row["completions"][1]), (picture + 2).permute(1, 2, 0).numpy())
    assert decode_png(row["mask"]).shape == (SIDE, SIDE)
