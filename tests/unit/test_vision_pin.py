"""Which activation the weights of a file get: OpenAI's are recognised, the rest is asked for or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, build_model_from_openai_state_dict, convert_weights_to_fp16
from safetensors.torch import save_file
from torch import Tensor, nn

from vqpipe.errors import SetupError
from vqpipe.params.base import validate
from vqpipe.vision import pin as module
from vqpipe.vision.pin import FileSource, load_pretrained_clip

TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 64, "heads": 1, "layers": 1},
}
FORMS = ("archive", "dictionary", "nested")


def official(form: str, path: Path) -> dict[str, Tensor]:
    """A file as OpenAI publishes it: most weights in half precision, three integers beside them."""
    torch.manual_seed(0)
    model = CLIP(**TINY, quick_gelu=True)
    convert_weights_to_fp16(model)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    state |= {
        "input_resolution": torch.tensor(16),
        "context_length": torch.tensor(8),
        "vocab_size": torch.tensor(32),
    }
    if form == "archive":
        root = nn.Module()
        for name, tensor in state.items():
            *parents, leaf = name.split(".")
            at = root
            for parent in parents:
                if not hasattr(at, parent):
                    at.add_module(parent, nn.Module())
                at = getattr(at, parent)
            at.register_buffer(leaf, tensor)
        torch.jit.save(torch.jit.script(root), path)
    else:
        torch.save(
            {"state_dict": {f"module.{n}": t for n, t in state.items()}} if form == "nested" else state, path
        )
    return state


def source(path: Path, config: dict[str, Any] | None = TINY, **options: Any) -> FileSource:
    given = {"kind": "file", "model": "tiny", "path": str(path), **options}
    if config is not None:
        target = path.with_name("config.json")
        target.write_text(json.dumps({"model_cfg": config}))
        given["config"] = str(target)
    return validate(given, "clip.pretrained", FileSource)


def outputs(model: nn.Module) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 16, 16, generator=draw)
    ids = torch.randint(1, 32, (2, 8), generator=draw)
    with torch.no_grad():
        return model.eval().encode_image(images), model.encode_text(ids)  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("form", FORMS)
def test_openai_weights_in_a_file_compute_what_open_clip_does(form: str, tmp_path: Path) -> None:
    path = tmp_path / "ViT-tiny.pt"
    state = official(form, path)
    expected = outputs(build_model_from_openai_state_dict(dict(state), cast_dtype=torch.float32).float())
    plain = CLIP(**TINY).eval()
    plain.load_state_dict({n: t for n, t in state.items() if n in plain.state_dict()})
    for options in ({}, {"quick_gelu": True}):
        model, config = load_pretrained_clip(source(path, **options))
        assert config["model_cfg"]["quick_gelu"] is True, "so that the artifact says it"
        for own, right, wrong in zip(outputs(model), expected, outputs(plain), strict=True):
            torch.testing.assert_close(own, right)
            assert (right - wrong).abs().max() > 1e-3, "GELU gives something else"


def test_what_contradicts_openai_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ViT-tiny.pt"
    official("dictionary", path)
    with pytest.raises(
        SetupError, match=r"pretrained\.quick_gelu: false, the file, whose weights are OpenAI's: true"
    ):
        load_pretrained_clip(source(path, quick_gelu=False))
    with pytest.raises(SetupError, match="the config's quick_gelu: false"):
        load_pretrained_clip(source(path, {**TINY, "quick_gelu": False}))
    with pytest.raises(SetupError, match="the config's quick_gelu: true"):
        load_pretrained_clip(source(path, {**TINY, "quick_gelu": True}, quick_gelu=False))


@pytest.mark.parametrize("quick", [True, False])
def test_other_weights_get_what_is_asked_for(quick: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CLIP(**TINY, quick_gelu=quick)
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    asked = [source(path, quick_gelu=quick), source(path, {**TINY, "quick_gelu": quick})]
    for one in asked if quick else [*asked, source(path)]:  # an open_clip config without the field means GELU
        pinned, config = load_pretrained_clip(one)
        assert bool(config["model_cfg"].get("quick_gelu", False)) == quick
        for own, right in zip(outputs(pinned), outputs(model), strict=True):
            torch.testing.assert_close(own, right)


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("ViT-B-32-quickgelu", None, True),
        ("RN50", None, True),
        ("ViT-S-32", None, False),
        ("ViT-B-32", True, True),
        ("ViT-B-32", False, False),
        ("ViT-B-32", None, "quick_gelu: null"),
        ("ViT-L-14", None, "set clip.pretrained.quick_gelu"),
        ("ViT-B-32-quickgelu", False, "the config's quick_gelu: true"),
    ],
)
def test_a_models_name_decides_where_it_can(
    name: str, asked: bool | None, expected: bool | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(module.towers, "build_model", lambda config, _: seen.append(config))
    monkeypatch.setattr(module, "_load", lambda *_: None)
    given = source(path, None, model=name, quick_gelu=asked)
    if isinstance(expected, str):
        with pytest.raises(SetupError, match=expected):
            load_pretrained_clip(given)
        return
    load_pretrained_clip(given)
    assert bool(seen[0].get("quick_gelu", False)) == expected


def test_a_file_gets_the_preprocessing_of_all_published_weights_or_none() -> None:
    """Four of the published ViT-L-14 with GELU are normalised by other statistics than the others."""
    with pytest.raises(
        SetupError, match=r"normalised or resized in 2 ways(.|\n)*laion2b_s32b_b82k: mean \(?\[?0\.5"
    ):
        module._published_preprocess(FileSource(kind="file", model="ViT-L-14", path="x"), quick_gelu=False)
    found = module._published_preprocess(FileSource(kind="file", model="ViT-L-14", path="x"), quick_gelu=True)
    assert found == module._preprocess({})
    found = module._published_preprocess(
        FileSource(kind="file", model="ViT-H-14-378-quickgelu", path="x"), quick_gelu=True
    )
    assert found["resize_mode"] == "squash"
    assert module._published_preprocess(
        FileSource(kind="file", model="mine", path="x"), False
    ) == module._preprocess({})
