"""Pinning a pretrained CLIP: weights from an open_clip tag or a local file, with their config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqpipe.errors import SetupError, did_you_mean
from vqpipe.params.clip import FileSource, TagSource
from vqpipe.vision import towers
from vqpipe.vision.clip import load_weights

Pinned = tuple[nn.Module, dict[str, Any]]


def pin(source: TagSource | FileSource) -> Pinned:
    """The pretrained model (fp32, CPU) and its config (`model_cfg`, `preprocess_cfg`).

    Raises:
        SetupError: unknown model or tag, weights that cannot be had or read, an unsupported architecture.
        ArtifactError: weights that do not fit the config.
    """
    if isinstance(source, TagSource):
        return _from_tag(source)
    return _from_file(source)


def _from_tag(source: TagSource) -> Pinned:
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

    model_cfg = _known_config(source.model)
    tags = list_pretrained_tags_by_model(source.model)
    tag_cfg = get_pretrained_cfg(source.model, source.tag)
    if not tag_cfg:
        raise SetupError(
            f"open_clip has no weights {source.tag} for {source.model}{did_you_mean(source.tag, tags)}",
            found=source.tag,
            choices=tags,
        )
    # The activation belongs to the weights: some tags were trained with QuickGELU under a config without it.
    model_cfg["quick_gelu"] = bool(tag_cfg.get("quick_gelu", False))
    model = towers.build_model(model_cfg, source.model)
    try:
        path = Path(download_pretrained(tag_cfg))
    except Exception as error:  # the download clients raise whatever their transport raises
        raise SetupError(
            f"the weights {source.model} {source.tag} could not be fetched ({_first_line(error)})",
            found="no cached copy and no working connection",
            expected="a connection once, or a copy of the weights on this machine",
            run=f"set clip.pretrained to {{kind: file, model: {source.model}, path: WEIGHTS}}",
        ) from error
    _load(model, path)
    return model, {"model_cfg": model_cfg, "preprocess_cfg": _preprocess(tag_cfg)}


def _from_file(source: FileSource) -> Pinned:
    path = Path(source.path)
    if not path.is_file():
        raise SetupError(
            f"clip.pretrained.path: there is no file {path}", expected="a safetensors file or checkpoint"
        )
    if source.config is None:
        config: dict[str, Any] = {"model_cfg": _known_config(source.model)}
    else:
        config = _read_config(Path(source.config))
    model = towers.build_model(config["model_cfg"], source.model)
    _load(model, path)
    return model, {
        "model_cfg": config["model_cfg"],
        "preprocess_cfg": _preprocess(config.get("preprocess_cfg", {})),
    }


def _known_config(name: str) -> dict[str, Any]:
    import open_clip

    names = open_clip.list_models()
    config = open_clip.get_model_config(name) if name in names else None
    if config is None:
        raise SetupError(
            f"open_clip knows no model {name}{did_you_mean(name, names)}",
            found=name,
            choices=[
                n for n in names if n.startswith(("ViT-", "RN")) and "SigLIP" not in n and "CLIPA" not in n
            ],
        )
    return dict(config)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SetupError(f"clip.pretrained.config: {path} cannot be read as JSON ({error})") from error
    if isinstance(config, dict) and "vision_cfg" in config:
        config = {"model_cfg": config}
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise SetupError(f"clip.pretrained.config: {path} has no model_cfg", expected="an open_clip config")
    return config


def _preprocess(given: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing as open_clip fills it in, without the resolution, which the tower knows."""
    from open_clip.transform import PreprocessCfg

    defaults = PreprocessCfg()
    keys = ("mean", "std", "interpolation", "resize_mode")
    merged = {key: given.get(key) or getattr(defaults, key) for key in keys}
    return {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in merged.items()}


def _load(model: nn.Module, path: Path) -> None:
    weights = _read_weights(path)
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    own = model.state_dict()
    if "positional_embedding" in weights and "text.positional_embedding" in own:
        from open_clip.model import convert_to_custom_text_state_dict

        weights = convert_to_custom_text_state_dict(weights)
    for name in ("logit_scale", "logit_bias"):
        if name in weights and name in own:
            weights[name] = weights[name].reshape(own[name].shape)
    for name in ("input_resolution", "context_length", "vocab_size"):
        weights.pop(name, None)  # three integers that OpenAI's checkpoints carry beside the weights
    load_weights(model, weights, str(path))


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file: what is raised depends on what it is
        raise SetupError(
            f"the CLIP weights {path} cannot be read ({_first_line(error)})",
            expected="safetensors, or a torch checkpoint of plain tensors (no TorchScript, no pickled code)",
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SetupError(
            f"the CLIP weights {path} hold no state dict", expected="a mapping of names to tensors"
        )
    return dict(content)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
