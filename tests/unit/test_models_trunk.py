"""The trunk and the discriminator: shapes, the papers' configuration, where gradients go."""

from typing import Any

import pytest
import torch

from vqpipe.models.losses import DiscriminatorParams, PatchDiscriminator
from vqpipe.models.trunk import AttentionBlock, Decoder, Downsample, Encoder, ResidualBlock, TrunkParams
from vqpipe.params.base import validate

PAPER = {
    "patch": 1, "channels": 128, "channel_multipliers": [1, 1, 2, 2, 4], "num_blocks": 2, "attention_levels": [4],
    "middle": True, "middle_attention": True, "shortcut": False, "latent_channels": 256, "dropout": 0.0,
}  # fmt: skip


def trunk(**changes: Any) -> TrunkParams:
    return validate({**PAPER, **changes}, "trunk", TrunkParams)


def count(module: torch.nn.Module, kind: type[torch.nn.Module]) -> int:
    return sum(isinstance(m, kind) for m in module.modules())


def test_the_papers_trunk_has_its_blocks_and_halves_the_image_four_times() -> None:
    with torch.device("meta"):
        encoder, decoder = Encoder(trunk(), 3), Decoder(trunk(), 3)
        latent = encoder(torch.empty(1, 3, 256, 256))
        image = decoder(latent)
    assert latent.shape == (1, 256, 16, 16)
    assert image.shape == (1, 3, 256, 256)
    assert (count(encoder, ResidualBlock), count(decoder, ResidualBlock)) == (5 * 2 + 2, 5 * 3 + 2)
    assert (count(encoder, AttentionBlock), count(decoder, AttentionBlock)) == (2 + 1, 3 + 1)
    assert trunk().downsampling == 16


@pytest.mark.parametrize("patch", [1, 2, 8])
@pytest.mark.parametrize("multipliers", [[1], [1, 2]])
@pytest.mark.parametrize("shortcut", [False, True])
def test_shapes_and_gradients(patch: int, multipliers: list[int], shortcut: bool) -> None:
    config = trunk(
        patch=patch, channels=8, channel_multipliers=multipliers, num_blocks=1, attention_levels=[0],
        latent_channels=4, shortcut=shortcut,
    )  # fmt: skip
    encoder, decoder = Encoder(config, 3), Decoder(config, 3)
    images = torch.randn(2, 3, 32, 16)
    latent = encoder(images)
    assert latent.shape == (2, 4, 32 // config.downsampling, 16 // config.downsampling)
    out = decoder(latent)
    assert out.shape == images.shape
    (out - images).square().mean().backward()
    for module in (encoder, decoder):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all()
    assert decoder.last_weight.grad is not None


def test_the_linear_shortcut_is_local_and_absent_by_default() -> None:
    assert not [
        n
        for n, _ in Encoder(
            trunk(channels=8, channel_multipliers=[1], attention_levels=[]), 3
        ).named_parameters()
        if "shortcut" in n
    ]
    encoder = Encoder(
        trunk(patch=8, channels=8, channel_multipliers=[1], attention_levels=[], shortcut=True), 3
    )
    assert encoder.shortcut is not None
    one, two = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    two[..., :8, :8] = 1.0
    moved = (
        encoder.shortcut(torch.nn.functional.pixel_unshuffle(two, 8))
        != encoder.shortcut(torch.nn.functional.pixel_unshuffle(one, 8))
    ).any(1)
    assert moved.tolist() == [[[True, False], [False, False]]]


def test_attention_mixes_positions_without_an_order() -> None:
    block = AttentionBlock(8).eval()
    x = torch.randn(1, 8, 4, 4)
    order = torch.randperm(16)
    moved = x.flatten(2)[..., order].reshape(1, 8, 4, 4)
    expected = block(x).flatten(2)[..., order].reshape(1, 8, 4, 4)
    torch.testing.assert_close(block(moved), expected)


def test_levels_that_do_not_exist_are_refused() -> None:
    with pytest.raises(Exception, match="attention_levels"):
        trunk(attention_levels=[5])


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_discriminator_judges_patches(norm: str) -> None:
    config = validate(
        {"channels": 8, "num_layers": 3, "lr_scale": 1.0, "norm": norm}, "d", DiscriminatorParams
    )
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(config, 3)
    images = torch.randn(2, 3, 64, 64)
    logits = discriminator(images)
    assert logits.shape == (2, 1, 6, 6)
    changed = images.clone()
    changed[1] = 0.0
    alone = torch.equal(discriminator(changed)[0], logits[0])
    assert alone == (norm == "group"), "group norm keeps an image's logits free of its batch"


def test_options_of_other_trunks_are_written_only_where_they_are_used() -> None:
    assert trunk(middle_blocks=2, adaptive_norm=False).model_dump() == trunk().model_dump()
    changed = {"middle_blocks": 3, "upsampling": "depth_to_space", "adaptive_norm": True}
    assert changed.items() <= trunk(**changed).model_dump().items()
    assert "downsampling_pad" not in trunk(**changed).model_dump()


def test_centred_downsampling_sees_the_pixel_before_the_corner() -> None:
    x = torch.zeros(1, 1, 6, 6)
    x[0, 0, 1, 1] = 1.0
    for centred, outputs in ((False, [(0, 0)]), (True, [(0, 0), (0, 1), (1, 0), (1, 1)])):
        down = Downsample(1, centred)
        torch.nn.init.ones_(down.conv.weight)
        torch.nn.init.zeros_(down.conv.bias)
        assert [tuple(place.tolist()) for place in down(x)[0, 0].nonzero()] == outputs


def test_the_decoder_of_magvit_scales_its_levels_by_the_latents_moments() -> None:
    config = trunk(
        channels=32, channel_multipliers=[1, 2], num_blocks=1, attention_levels=[], middle_attention=False,
        latent_channels=4, upsampling="depth_to_space", adaptive_norm=True, middle_blocks=1,
    )  # fmt: skip
    torch.manual_seed(0)
    decoder, latent = Decoder(config, 3), torch.randn(2, 4, 4, 4)
    assert decoder.norms is not None
    assert [norm.scale.out_features for norm in decoder.norms] == [64, 64]
    assert decoder(latent).shape == (2, 3, 8, 8)
    assert count(decoder, ResidualBlock) == 1 + 2 * 2
    norm, x = decoder.norms[0], torch.randn(2, 64, 4, 4)
    groups = x.view(2, 32, -1)
    normed = (
        (groups - groups.mean(2, keepdim=True)) / (groups.var(2, False, keepdim=True) + 1e-6).sqrt()
    ).view_as(x)
    scale = norm.scale((latent.var((2, 3)) + 1e-6).sqrt())
    expected = normed * scale[..., None, None] + norm.shift(latent.mean((2, 3)))[..., None, None]
    torch.testing.assert_close(norm(x, latent), expected)
