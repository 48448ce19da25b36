"""Pixel and adversarial losses against values worked out by hand."""

import pytest
import torch

from vqpipe.models.losses import (
    ReconstructionParams,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    pixel_loss,
)


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
    reconstruction, generator = weight.square().sum() / 2, weight.sum() * 2
    ratio = 5.0 / ((8.0**0.5) + 1e-4)
    assert adaptive_weight(reconstruction, generator, weight, 1e4).item() == pytest.approx(ratio)
    assert adaptive_weight(reconstruction, generator, weight, 0.5).item() == 0.5
    assert not adaptive_weight(reconstruction, generator, weight, 1e4).requires_grad
