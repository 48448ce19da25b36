"""The tokenizer as a library object, and how its losses reach its parts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import TOKENIZER, write_tokenizer
from vqpipe.errors import ArtifactError
from vqpipe.params.base import validate
from vqpipe.quantizers import build
from vqpipe.tokenizers.objective import TokenizerObjective
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams
from vqpipe.tokenizers.train import whiten


def make(**adversarial: Any) -> TokenizerObjective:
    losses = {**TOKENIZER["losses"], "adversarial": {**TOKENIZER["losses"]["adversarial"], **adversarial}}
    config = validate({**TOKENIZER, "losses": losses}, "tokenizer", TokenizerParams)
    torch.manual_seed(0)
    return TokenizerObjective(config, Tokenizer(config, build(config.quantizer, None)), None)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(write_tokenizer(tmp_path / "t"))


def test_indices_decode_to_what_the_forward_pass_gives(tokenizer: Tokenizer) -> None:
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    indices = tokenizer.encode(images)
    assert indices.dtype == torch.int64
    assert indices.shape == (3, 1, *tokenizer.grid)
    torch.testing.assert_close(tokenizer.decode(indices), tokenizer(images)[0])


def test_a_latent_is_quantised_as_encoding_does(tokenizer: Tokenizer) -> None:
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    latent = tokenizer.encode_latent(images)
    torch.testing.assert_close(
        tokenizer.decode_latent(tokenizer.quantize_latent(latent)), tokenizer.decode(tokenizer.encode(images))
    )


def test_save_and_load_keep_every_weight_and_the_bytes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("one", "two"):
        tokenizer.save(tmp_path / name, {"weights": "ema"})
    again = Tokenizer.from_pretrained(tmp_path / "one")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in tokenizer.state_dict().items())
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    assert (tmp_path / "one/model.safetensors").read_bytes() == (
        tmp_path / "two/model.safetensors"
    ).read_bytes()
    assert again.facts["weights"] == "ema"


def test_bits_per_image(tokenizer: Tokenizer) -> None:
    assert tokenizer.num_codes == (16,)
    assert tokenizer.bits_per_image == 16 * 4


def test_what_is_not_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        Tokenizer.from_pretrained(tmp_path / "none")


def test_whiten_gives_mean_zero_and_identity_covariance() -> None:
    conv = torch.nn.Conv2d(6, 4, 1)
    features = torch.randn(8, 6, 5, 5) * torch.tensor([9.0, 5, 3, 1, 0.3, 0.1])[:, None, None] + 2
    whiten(conv, features, torch.Generator().manual_seed(0))
    rows = conv(features).detach().permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(rows.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(rows.T, correction=0), torch.eye(4), atol=1e-3, rtol=0)


def test_without_an_adversarial_weight_there_is_no_discriminator() -> None:
    training = make()
    assert training.phases == ("ae",)
    assert "discriminator" not in training.module


def test_the_adversarial_loss_starts_and_counts_when_the_params_say() -> None:
    training = make(weight=0.8, start=0.5, warmup=0.25, max_adaptive_weight=1e4)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert not training.active("disc", 0.49)
    assert training.active("disc", 0.5)
    _, early = training.loss("ae", images, 0.6)
    assert "adversarial" not in early, "the discriminator learns alone during its warm-up"
    _, late = training.loss("ae", images, 0.8)
    assert 0 < float(late["adaptive_weight"]) < 1e4


def test_each_phase_moves_its_own_part() -> None:
    training = make(weight=0.8, start=0.0, warmup=0.0, max_adaptive_weight=1e4)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    training.loss("ae", images, 0.5)[0].backward()
    assert training.discriminator is not None
    assert all(p.grad is None for p in training.discriminator.parameters())
    assert all(p.grad is not None for p in training.tokenizer.encoder.parameters())
    training.tokenizer.zero_grad(set_to_none=True)
    training.loss("disc", images, 0.5)[0].backward()
    assert all(p.grad is not None for p in training.discriminator.parameters())
    assert all(p.grad is None for p in training.tokenizer.parameters())


def test_the_adversarial_gradient_has_the_adaptive_weight() -> None:
    training = make(weight=0.8, start=0.0, warmup=0.0, max_adaptive_weight=1e4)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    total, terms = training.loss("ae", images, 0.5)
    plain = terms["l1"] + terms["quantizer"]
    expected = plain + 0.8 * terms["adaptive_weight"] * terms["adversarial"]
    assert total.item() == pytest.approx(float(expected), rel=1e-5)
