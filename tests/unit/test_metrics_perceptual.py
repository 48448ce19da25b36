"""Perceptual distances: one value per image, parity with the package, errors that name the file."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from vqpipe.errors import MismatchError, SetupError
from vqpipe.models.perceptual import (
    TRUNKS,
    ClipPerceptual,
    ClipPerceptualParams,
    LpipsPerceptual,
    LpipsPerceptualParams,
    NoPerceptual,
    build_perceptual,
)


class FakeClip(nn.Module):
    id, embed_dim = "fake:unit:0", 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 4, 4), nn.Conv2d(3, 16, 8, 8)])
        self.drop = nn.Dropout(0.5)

    def check_layers(self, layers: Any) -> None:
        pass

    def perceptual_features(self, images: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        return [self.drop(self.layers[i](images)).flatten(2).transpose(1, 2) for i in layers]


def pair(n: int = 3, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 3, side, side, generator=generator) * 2 - 1
    return x, (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def test_clip_distance_is_per_image_in_range_and_zero_for_equal_images() -> None:
    distance = ClipPerceptual(FakeClip(), (0, 1))  # type: ignore[arg-type]
    x, y = pair()
    found = distance(x, y)
    assert found.shape == (3,)
    assert bool(((found > 0) & (found < 4)).all())
    assert distance(x, x).abs().max() == 0
    torch.testing.assert_close(found, distance(y, x))
    torch.testing.assert_close(found[1:2], distance(x[1:2], y[1:2]))


def test_clip_distance_is_two_minus_twice_the_correlation() -> None:
    clip = FakeClip()
    distance = ClipPerceptual(clip, (0,))  # type: ignore[arg-type]
    x, y = pair(n=1)
    a, b = (clip.perceptual_features(i, (0,))[0][0] for i in (x, y))
    correlations = [torch.corrcoef(torch.stack([s, t]))[0, 1] for s, t in zip(a, b, strict=True)]
    expected = (2 - 2 * torch.stack(correlations)).mean()
    torch.testing.assert_close(distance(x, y)[0], expected, rtol=1e-3, atol=1e-5)


def test_parents_cannot_switch_it_to_training_and_gradients_reach_images_alone() -> None:
    distance = ClipPerceptual(FakeClip(), (0, 1))  # type: ignore[arg-type]
    nn.ModuleList([distance]).train()
    x, y = pair()
    y.requires_grad_()
    torch.testing.assert_close(distance(x, y), distance(x, y))
    distance(x, y).sum().backward()
    assert y.grad is not None
    assert y.grad.abs().sum() > 0
    assert all(not p.requires_grad for p in distance.parameters())


def test_lpips_equals_the_package_under_shared_weights(tmp_path: Path) -> None:
    import lpips
    import torchvision

    torch.manual_seed(0)
    trunk = torchvision.models.alexnet(weights=None).features.state_dict()
    torch.save({f"features.{name}": value for name, value in trunk.items()}, tmp_path / "alex.pth")
    before = torch.random.get_rng_state()
    ours = LpipsPerceptual("alex", tmp_path / "alex.pth")
    assert torch.equal(before, torch.random.get_rng_state())
    assert ours.name == "lpips_alex"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    theirs.net.load_state_dict(ours.lpips.net.state_dict())
    x, y = pair(side=64)
    torch.testing.assert_close(ours(x, y), theirs(x, y).flatten(), rtol=1e-5, atol=1e-7)
    assert ours(x, x).abs().max() == 0


def test_lpips_refuses_missing_and_foreign_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for net, file in TRUNKS.items():
        with pytest.raises(SetupError, match=file):
            build_perceptual(LpipsPerceptualParams(kind="lpips", net=net), None)  # type: ignore[arg-type]
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "wrong.pth")
    with pytest.raises(SetupError, match="does not have the trunk"):
        LpipsPerceptual("alex", tmp_path / "wrong.pth")
    (tmp_path / "wrong.pth").write_bytes(b"not weights")
    with pytest.raises(SetupError, match="cannot be read"):
        LpipsPerceptual("alex", tmp_path / "wrong.pth")


def test_build_follows_the_kind() -> None:
    assert build_perceptual(NoPerceptual(kind="none"), None) is None
    with pytest.raises(MismatchError, match="no CLIP"):
        build_perceptual(ClipPerceptualParams(kind="clip", layers=(0,)), None)
    built = build_perceptual(ClipPerceptualParams(kind="clip", layers=(1,)), FakeClip())  # type: ignore[arg-type]
    assert built is not None
    assert built.name == "clip_distance"
