"""What a tokenizer's public calls refuse, with what they found and how to go on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from tests.recipes import every_recipe, make_tokenizer
from tests.tiny import TOKENIZER, write_tokenizer
from vqpipe import Tokenizer
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.tokenizers import tokenizer as training
from vqpipe.tokenizers.checks import FARTHEST

PATCHLESS = {**TOKENIZER["trunk"], "patch": 1, "channel_multipliers": [1, 1, 1]}
"""A trunk whose convolutions alone go down by 4, as an imported VQGAN's: sides that do not divide pass through it."""


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer(every_recipe()["vq-uniform"], Tokenizer, trunk=PATCHLESS)


IMAGES: dict[str, tuple[Any, list[str]]] = {
    "sides": (uniform(1, 3, 39, 33), ["multiples of 4", "found:    39 x 33", "36 x 32"]),
    "height": (uniform(1, 3, 38, 32), ["found:    38 x 32"]),
    "too small": (uniform(1, 3, 2, 32), ["found:    2 x 32", "at least 4 x 4"]),
    "no pixel": (uniform(1, 3, 0, 0), ["found:    0 x 0"]),
    "one image": (uniform(3, 16, 16), ["shape (3, 16, 16)", "images.unsqueeze(0)"]),
    "one image, channels last": (uniform(16, 16, 3), ["images.permute(2, 0, 1).unsqueeze(0)"]),
    "channels last": (uniform(2, 16, 16, 3), ["images.permute(0, 3, 1, 2)"]),
    "grey": (uniform(2, 1, 16, 16), ["images.expand(-1, 3, -1, -1)"]),
    "alpha": (uniform(2, 4, 16, 16), ["shape (2, 4, 16, 16)", "tokenizer.preprocess"]),
    "video": (uniform(2, 3, 4, 16, 16), ["shape (2, 3, 4, 16, 16)"]),
    "bytes": (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), ["torch.uint8", "images.float() / 127.5 - 1"]),
    "long": (torch.zeros(1, 3, 16, 16, dtype=torch.int64), ["torch.int64"]),
    "bool": (torch.zeros(1, 3, 16, 16, dtype=torch.bool), ["torch.bool"]),
    "complex": (torch.zeros(1, 3, 16, 16, dtype=torch.complex64), ["torch.complex64"]),
    "0 to 255": (uniform(1, 3, 16, 16) * 127.5 + 127.5, ["not in [-1, 1]", "images.float() / 127.5 - 1"]),
    "normalised": (uniform(1, 3, 16, 16) * 2.2, ["not in [-1, 1]", "(images * std + mean) * 2 - 1"]),
    "nan": (uniform(1, 3, 16, 16).index_fill(3, torch.tensor(2), torch.nan), ["48 of 768 are NaN"]),
    "inf": (uniform(1, 3, 16, 16).index_fill(3, torch.tensor(2), -torch.inf), ["48 of 768 are NaN or inf"]),
    "meta": (
        torch.zeros(1, 3, 16, 16, device="meta"),
        ["another device", "found:    meta", "images.to('cpu')"],
    ),
    "numpy": (np.zeros((1, 3, 16, 16), np.float32), ["numpy.ndarray", "torch.from_numpy"]),
    "pil": (Image.new("RGB", (16, 16)), ["PIL.Image.Image", "tokenizer.preprocess"]),
    "list": ([uniform(3, 16, 16)], ["builtins.list"]),
    "none": (None, ["NoneType"]),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_are_not_for_it_are_refused(name: str, tokenizer: Tokenizer) -> None:
    images, texts = IMAGES[name]
    for call in (tokenizer.encode, tokenizer):
        with pytest.raises(MismatchError) as caught:
            call(images)
        for text in texts:
            assert text in str(caught.value)
        assert "[-1, 1]" in str(caught.value) or name == "meta"


def test_good_images_of_any_sides_dtype_and_number_are_encoded(tokenizer: Tokenizer) -> None:
    for shape, grid in (((1, 3, 40, 32), (10, 8)), ((2, 3, 4, 4), (1, 1)), ((0, 3, 16, 16), (4, 4))):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            indices = tokenizer.encode(uniform(*shape).to(dtype))
            assert indices.shape == (shape[0], 1, *grid)
            assert indices.dtype == torch.int64
    images = uniform(2, 3, 16, 16)
    flipped = images.flip(3).contiguous().flip(3)
    assert torch.equal(tokenizer.encode(images), tokenizer.encode(flipped))
    assert torch.equal(tokenizer.encode(images), tokenizer.encode(images.requires_grad_()))


def test_what_resizing_adds_at_edges_is_accepted(tokenizer: Tokenizer) -> None:
    board = torch.ones(1, 3, 9, 9)
    board[..., ::2, :] *= -1
    board[..., :, ::2] *= -1
    checks = interpolate(board, (32, 32), mode="bicubic", antialias=True)
    edges = interpolate(board.sign().cummax(3).values, (32, 32), mode="bicubic")
    assert 1.05 < max(checks.abs().max(), edges.abs().max()) < FARTHEST
    assert tokenizer.encode(checks).shape == tokenizer.encode(edges).shape == (1, 1, 8, 8)


INDICES: dict[str, tuple[Any, str]] = {
    "float": (torch.zeros(1, 1, 4, 4), r"indices\.long\(\)"),
    "bool": (torch.zeros(1, 1, 4, 4, dtype=torch.bool), r"torch\.bool"),
    "no group": (torch.zeros(1, 4, 4, dtype=torch.int64), r"indices\.unsqueeze\(1\)"),
    "flat": (torch.zeros(1, 16, dtype=torch.int64), r"shape \(1, 16\)"),
    "groups": (torch.zeros(1, 2, 4, 4, dtype=torch.int64), r"shape \(1, 2, 4, 4\)"),
    "too large": (torch.full((1, 1, 4, 4), 16), "16 to 16 in group 0"),
    "negative": (torch.full((1, 1, 4, 4), -1), "-1 to -1 in group 0"),
    "empty grid": (torch.zeros(1, 1, 0, 4, dtype=torch.int64), r"shape \(1, 1, 0, 4\)"),
    "list": ([[[[0]]]], r"torch\.as_tensor"),
    "none": (None, "NoneType"),
}


@pytest.mark.parametrize("name", INDICES)
def test_indices_that_are_not_its_own_are_refused(name: str, tokenizer: Tokenizer) -> None:
    indices, message = INDICES[name]
    with pytest.raises(MismatchError, match=message):
        tokenizer.decode(indices)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16, torch.int64])
def test_indices_of_any_integer_dtype_are_decoded(dtype: torch.dtype, tokenizer: Tokenizer) -> None:
    indices = tokenizer.encode(uniform(1, 3, 16, 16))
    assert torch.equal(tokenizer.decode(indices.to(dtype)), tokenizer.decode(indices))
    assert tokenizer.decode(indices[:0]).shape == (0, 3, 16, 16)


def test_no_images_have_no_indices(tokenizer: Tokenizer) -> None:
    none = tokenizer.encode(torch.zeros(0, 3, 16, 24))
    assert (none.shape, none.dtype) == ((0, 1, 4, 6), torch.int64)
    assert tokenizer.decode(none).shape == (0, 3, 16, 24)


@pytest.mark.parametrize(
    "name", [name for name in every_recipe() if name.split("-")[0] in ("ema", "cvq", "vqct")]
)
def test_training_mode_is_refused_and_moves_nothing(name: str) -> None:
    tokenizer = make_tokenizer(every_recipe()[name])
    images = uniform(2, 3, 16, 16)
    indices, latent = tokenizer.encode(images), tokenizer.encode_latent(images)
    before = {key: value.clone() for key, value in tokenizer.state_dict().items()}
    for part in (tokenizer, tokenizer.quantizer, tokenizer.decoder):
        part.train()  # type: ignore[union-attr]
        for call, given in (
            (tokenizer.encode, images),
            (tokenizer.decode, indices),
            (tokenizer.quantize_latent, latent),
        ):
            with pytest.raises(MismatchError, match=r"eval mode\n.*\n  run:      tokenizer\.eval\(\)"):
                call(given)
        tokenizer.eval()
    assert all(torch.equal(value, before[key]) for key, value in tokenizer.state_dict().items())


def test_latents_are_checked_where_they_are_given(tokenizer: Tokenizer) -> None:
    with pytest.raises(MismatchError, match="not finite"):
        tokenizer.quantize_latent(torch.full((1, 8, 4, 4), torch.nan))
    for call in (tokenizer.quantize_latent, tokenizer.decode_latent):
        with pytest.raises(MismatchError, match=r"\(b, 8, h, w\)"):
            call(torch.zeros(1, 3, 4, 4))


def test_weights_that_are_not_finite_give_no_indices() -> None:
    tokenizer = make_tokenizer(every_recipe()["fsq-port"])
    tokenizer.quant_conv.bias.data[0] = torch.nan
    with pytest.raises(MismatchError, match="latent has values that are not finite"):
        tokenizer.encode(uniform(1, 3, 16, 16))


def test_pictures_are_checked_both_ways(tokenizer: Tokenizer) -> None:
    for given in (None, "bird.jpg", [np.zeros((8, 8, 3), np.uint8)], torch.zeros(3, 8, 8)):
        with pytest.raises(MismatchError, match="not PIL images"):
            tokenizer.preprocess(given)  # type: ignore[arg-type]
    for bad in (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.full((1, 3, 8, 8), torch.nan), np.zeros(3)):
        with pytest.raises(MismatchError, match="these are not images"):
            tokenizer.to_pil(bad)  # type: ignore[arg-type]
    assert tokenizer.to_pil(torch.ones(1, 3, 2, 2, dtype=torch.bfloat16))[0].getpixel((0, 0)) == (
        255,
        255,
        255,
    )


@pytest.mark.parametrize("given", [None, "", " ", 3, 0, True, 1.5, b"artifacts", ["a"], "a\0b"])
@pytest.mark.parametrize("cls", [Tokenizer, training.Tokenizer])
def test_what_names_no_tokenizer_is_refused(given: Any, cls: Any) -> None:
    with pytest.raises(ArtifactError, match="does not name a tokenizer") as caught:
        cls.from_pretrained(given)
    assert "owner/name" in str(caught.value)


def test_a_file_and_a_folder_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for given, found in (
        (path, "a file"),
        (tmp_path / "empty", "nothing"),
        (tmp_path, "['empty', 'model.safetensors']"),
    ):
        for name in (given, str(given)):
            with pytest.raises(ArtifactError, match=f"contains no tokenizer\n  found:    {re.escape(found)}"):
                Tokenizer.from_pretrained(name)
    with pytest.raises(ArtifactError, match="there is no tokenizer artifacts/tokenizer/none"):
        Tokenizer.from_pretrained("artifacts/tokenizer/none")
    assert Tokenizer.from_pretrained(str(write_tokenizer(tmp_path / "t"))).num_codes == (16,)


@pytest.mark.slow
def test_the_package_runs_as_the_console_script() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vqpipe", "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage: vqpipe" in done.stdout
    assert "import " in done.stdout
    missing = subprocess.run([sys.executable, "-m", "vqpipe", "card", "none"], capture_output=True, text=True)
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr
    assert "none does not exist" in missing.stderr
