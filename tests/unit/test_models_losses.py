"""Pixel and adversarial losses against values worked out by hand; the discriminator's start, spectral norm and R1."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from tests.small_training import batch_at, make, params
from vqpipe.errors import ParamsError
from vqpipe.models.losses import (
    DiscriminatorParams,
    DiscriminatorStart,
    PatchDiscriminator,
    PlateauStart,
    ReconstructionParams,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    image_gradient,
    pixel_loss,
    r1_penalty,
    with_gradient,
)
from vqpipe.params.base import validate


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.5))
    assert hinge_generator_loss(fake).item() == pytest.approx(1.0)


def test_pixel_loss_weighs_both_terms_and_reports_them_unweighted() -> None:
    recon, images = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 3, 2, 2)
    total, terms = pixel_loss(ReconstructionParams(l1=2.0, l2=4.0), recon, images)
    assert total.item() == pytest.approx(2 * 0.5 + 4 * 0.25)
    assert (terms["l1"].item(), terms["l2"].item()) == (pytest.approx(0.5), pytest.approx(0.25))


def test_adaptive_weight_is_the_ratio_of_gradient_norms_and_is_bounded() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    image = (weight * 1.0).view(1, 1, 1, 2)  # its gradient at the weight is the one at the image
    seen = image.detach().requires_grad_()
    up = image_gradient(seen.square().sum() / 2, seen)
    down = image_gradient(seen.sum() * 2, seen, scale=1024.0)
    assert (up.flatten().tolist(), down.flatten().tolist()) == ([3.0, 4.0], [2.0, 2.0])
    ratio = 5.0 / ((8.0**0.5) + 1e-4)
    assert adaptive_weight(image, up, down, weight, 1e4).item() == pytest.approx(ratio)
    assert adaptive_weight(image, up, down, weight, 0.5).item() == 0.5
    assert not adaptive_weight(image, up, down, weight, 1e4).requires_grad
    loss = with_gradient(torch.tensor(7.0), image, up + down) * 2
    loss.backward()
    assert (loss.item(), weight.grad.tolist()) == (14.0, [10.0, 12.0])  # type: ignore[union-attr]


def test_the_adaptive_weight_in_float16_is_that_of_float32() -> None:
    """Gradients of means over many pixels are below float16's smallest numbers."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(8, 8, 64, 64, generator=draw)
    weight = (torch.randn(3, 8, 3, 3, generator=draw) / 8).requires_grad_()
    up = torch.randn(8, 3, 64, 64, generator=draw).sign() / (256 * 3 * 256**2)
    down = torch.randn(8, 3, 64, 64, generator=draw) / (256 * 3 * 256**2) / 100

    def found(dtype: torch.dtype, half: bool) -> float:
        image = torch.nn.functional.conv2d(hidden.to(dtype), weight.to(dtype), padding=1).float()
        return adaptive_weight(image, up, down * 1e4, weight, 1e4, half).item()

    assert found(torch.float16, True) == pytest.approx(found(torch.float32, False), rel=0.01)
    assert found(torch.float16, False) != pytest.approx(found(torch.float32, False), rel=0.05)


def test_the_rows_of_logits_are_those_of_the_network() -> None:
    for layers in range(1, 5):
        config = DiscriminatorParams.model_validate({**DISCRIMINATOR, "num_layers": layers})
        for side in (8, 16, 24, 50, 64):
            rows = config.patches(side)
            if rows < 1:
                with pytest.raises(RuntimeError):
                    PatchDiscriminator(config, 3)(torch.zeros(1, 3, side, side))
            else:
                assert PatchDiscriminator(config, 3)(torch.zeros(1, 3, side, side)).shape[-1] == rows


DISCRIMINATOR = {"channels": 8, "num_layers": 1, "lr_scale": 1.0, "norm": "group"}


def plateau(
    window: int = 5, change: float = 0.05, earliest: float = 0.2, latest: float = 0.8
) -> PlateauStart:
    section = {"window": window, "min_relative_change": change, "earliest": earliest, "latest": latest}
    return validate({"plateau": section}, "start", PlateauStart)


def follow(start: DiscriminatorStart, losses: Sequence[float], first: int = 0) -> int | None:
    """The number of losses after which it starts, in a training of 100 steps."""
    for step, loss in enumerate(losses, first):
        start.observe(loss, (step + 1) / 100)
        if start.started_at is not None:
            return step + 1
    return None


FALLING = [0.98**step for step in range(100)]  # 10 % from window to window
BENT = [max(0.98**step, 0.98**38) for step in range(100)]  # flat from step 38 on


def test_a_flat_loss_starts_it_at_the_end_of_the_first_flat_window() -> None:
    assert (
        follow(DiscriminatorStart(plateau()), [1.0] * 100) == 20
    )  # flat from the start, but not before `earliest`
    # Windows 36..40 and 41..45 differ by 1.3 %, those before by 6 % and more.
    start = DiscriminatorStart(plateau())
    assert follow(start, BENT) == 45
    assert (start.passed(0.44), start.passed(0.45)) == (False, True)
    assert (start.passed(0.54, warmup=0.1), start.passed(0.56, warmup=0.1)) == (False, True)
    rising = [1.1**step for step in range(100)]
    assert follow(DiscriminatorStart(plateau()), rising) == 20


def test_a_falling_loss_starts_it_at_the_latest_point() -> None:
    assert follow(DiscriminatorStart(plateau()), FALLING) == 80
    assert follow(DiscriminatorStart(plateau(change=0.2)), FALLING) == 20


def test_a_start_that_was_decided_stays() -> None:
    start = DiscriminatorStart(plateau())
    follow(start, [1.0] * 20)
    memory = start.memory.clone()
    follow(start, FALLING, 20)
    assert torch.equal(start.memory, memory)


@pytest.mark.parametrize("stop", [1, 7, 40, 44, 45, 60])
def test_a_start_resumes_anywhere(stop: int) -> None:
    whole, first, second = (DiscriminatorStart(plateau()) for _ in range(3))
    for step, loss in enumerate(BENT):
        whole.observe(loss, (step + 1) / 100)
        (first if step < stop else second).observe(loss, (step + 1) / 100)
        if step == stop - 1:
            second.load_state_dict(first.state_dict())
    assert torch.equal(whole.memory, second.memory)
    assert second.started_at == 0.45


def test_a_fixed_start_has_no_state_and_the_plateaus_bounds_are_ordered() -> None:
    start = DiscriminatorStart(0.5)
    start.observe(1.0, 0.9)
    assert not start.state_dict()
    assert (start.passed(0.49), start.passed(0.5)) == (False, True)
    with pytest.raises(ParamsError, match=r"earliest 0.9 is after latest 0.8"):
        plateau(earliest=0.9)


def singular_values(module: nn.Module) -> list[float]:
    return [
        float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d)
    ]


def test_spectral_norm_bounds_every_convolution_whatever_its_weights() -> None:
    config = DiscriminatorParams(**DISCRIMINATOR, spectral_norm=True)
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(config, 3).train()
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.mul_(50)
        for _ in range(100):  # one power iteration each
            discriminator(batch_at(0))
    assert singular_values(discriminator) == [pytest.approx(1.0, abs=1e-3)] * 3
    plain = PatchDiscriminator(DiscriminatorParams(**DISCRIMINATOR), 3)
    assert max(singular_values(plain)) < 0.9 or min(singular_values(plain)) > 1.1
    assert not any("original" in name for name in plain.state_dict())


def one_by_one(discriminator: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """R1 as its equation reads: an image at a time, each with the gradient of its own mean logit."""
    total = torch.zeros(())
    for image in images:
        x = image[None].clone().requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(x).mean(), x, create_graph=True)
        total = total + slope.pow(2).sum()
    return total / (2 * len(images))


def test_r1_is_half_the_mean_squared_slope_at_real_images() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(DiscriminatorParams(**DISCRIMINATOR), 3)
    images, weights = batch_at(0), list(discriminator.parameters())
    penalty, expected = r1_penalty(discriminator, images), one_by_one(discriminator, images)
    torch.testing.assert_close(penalty, expected, rtol=1e-5, atol=0)
    ours, theirs = (torch.autograd.grad(p, weights, allow_unused=True) for p in (penalty, expected))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)
    assert any(float(one.abs().max()) > 1e-4 for one in ours if one is not None)


def test_r1_is_lazy_and_counts_for_the_steps_between() -> None:
    training = make(params(losses={"adversarial": {"start": 0.0, "r1": {"weight": 3.0, "every": 4}}}))
    losses = {}
    for step in (0, 1, 3, 4):
        training.begin([batch_at(0)], step, step / 8)
        training.loss("ae", batch_at(0), step / 8)
        loss, terms = training.loss("disc", batch_at(0), step / 8)
        losses[step] = float(loss.detach()), terms.get("r1")
    assert [step for step, (_, penalty) in losses.items() if penalty is not None] == [0, 4]
    penalty = losses[4][1]
    assert penalty is not None
    assert losses[4][0] - losses[3][0] == pytest.approx(3.0 * 4 * float(penalty), rel=1e-3)


def test_r1_is_refused_with_batch_norm() -> None:
    adversarial = {"r1": {"weight": 1.0, "every": 1}, "discriminator": {"norm": "batch"}}
    with pytest.raises(ParamsError, match="batch norm mixes with the others"):
        params(losses={"adversarial": adversarial})
