"""A pretrained CLIP: weights from an open_clip tag or a local file, with their config."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqpipe.errors import SetupError, did_you_mean
from vqpipe.params.base import Params
from vqpipe.vision import towers
from vqpipe.vision.clip import load_weights


class TagSource(Params):
    """Pretrained weights that open_clip knows by a tag; fetched once into its cache."""

    kind: Literal["tag"]
    """Discriminator."""
    model: Annotated[str, Field(min_length=1)]
    """Name of an architecture in open_clip, such as `ViT-B-32`."""
    tag: Annotated[str, Field(min_length=1)]
    """Name of a set of weights for it, such as `openai`."""


class FileSource(Params):
    """Pretrained weights in a local file."""

    kind: Literal["file"]
    """Discriminator."""
    model: Annotated[str, Field(min_length=1)]
    """Name of an architecture in open_clip; with `config`, any name, used in the CLIP id."""
    path: Annotated[str, Field(min_length=1)]
    """A safetensors file, a torch checkpoint that loads with `weights_only`, or OpenAI's TorchScript archive."""
    quick_gelu: bool | None = None
    """Whether the weights were trained with QuickGELU, as OpenAI's were, instead of GELU. Null takes it from the file
    (OpenAI's archives are recognised), then from `config` or from the model's name; where those leave it open, as for
    `ViT-B-32`, it must be given."""
    config: str | None = None
    """An open_clip config JSON (`model_cfg`, `preprocess_cfg`), such as the `open_clip_config.json` next to weights on
    the Hub. It must be given where open_clip has no name for the model, or where the published weights of that name are
    for images that are normalised or resized differently."""


Source = Annotated[TagSource | FileSource, Field(discriminator="kind")]


OPENAI = ("input_resolution", "context_length", "vocab_size")
"""Three integers that only OpenAI's checkpoints have in addition to the weights."""
Pinned = tuple[nn.Module, dict[str, Any]]


def load_pretrained_clip(source: TagSource | FileSource) -> Pinned:
    """The pretrained model (fp32, CPU) and its config (`model_cfg`, `preprocess_cfg`).

    Raises:
        SetupError: unknown model or tag, weights that cannot be fetched or read, an unsupported architecture.
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
    except Exception as error:  # what is raised depends on the transport
        raise SetupError(
            f"the weights {source.model} {source.tag} could not be fetched ({_first_line(error)})",
            found="no cached copy and no working connection",
            expected="a connection once, or a copy of the weights on this machine",
            run=f"set clip.pretrained to {{kind: file, model: {source.model}, path: WEIGHTS}}",
        ) from error
    _load(model, _read_weights(path), path)
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
    weights = _read_weights(path)
    model_cfg = {**config["model_cfg"]}
    quick = _quick_gelu(source, model_cfg, any(name in weights for name in OPENAI))
    if quick != bool(model_cfg.get("quick_gelu", False)):
        model_cfg["quick_gelu"] = quick
    given = config.get("preprocess_cfg")
    preprocess = _published_preprocess(source, quick) if given is None else _preprocess(given)
    model = towers.build_model(model_cfg, source.model)
    _load(model, weights, path)
    return model, {"model_cfg": model_cfg, "preprocess_cfg": preprocess}


def _published_preprocess(source: FileSource, quick_gelu: bool) -> dict[str, Any]:
    """The preprocessing of weights in a file without a config: that of all published weights of this model with this
    activation, where they agree; open_clip's default where none were published.

    Raises:
        SetupError: they differ.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    kinds: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for tag in list_pretrained_tags_by_model(source.model):
        stated = get_pretrained_cfg(source.model, tag)
        if bool(stated.get("quick_gelu", False)) == quick_gelu:
            own = _preprocess(stated)
            kinds.setdefault(json.dumps(own, sort_keys=True), ([], own))[0].append(tag)
    if len(kinds) > 1:
        raise SetupError(
            f"clip.pretrained: weights for {source.model} were published for images that are normalised or resized in "
            f"{len(kinds)} ways, and {source.path} does not say in which; another one gives wrong features without an "
            "error",
            found=f"config: {source.config}, without preprocess_cfg" if source.config else "config: null",
            expected=[
                f"{', '.join(tags)}: " + ", ".join(f"{key} {own[key]}" for key in own)
                for tags, own in kinds.values()
            ],
            run="set clip.pretrained.config to the open_clip_config.json that is next to these weights",
        )
    return next(iter(kinds.values()))[1] if kinds else _preprocess({})


def _quick_gelu(source: FileSource, model_cfg: Mapping[str, Any], is_openai: bool) -> bool:
    """The activation that the weights of a file were trained with: another one runs without an error, and is wrong.

    Raises:
        SetupError: params, config and file disagree, or none of them gives it.
    """
    signs = {
        "clip.pretrained.quick_gelu": source.quick_gelu,
        "the config's quick_gelu": model_cfg.get("quick_gelu"),
    }
    if is_openai:
        signs["the file, whose weights are OpenAI's"] = True
    given = {name: bool(sign) for name, sign in signs.items() if sign is not None}
    if len(set(given.values())) > 1:
        raise SetupError(
            f"clip.pretrained: it is not clear whether {source.path} was trained with QuickGELU",
            found=", ".join(f"{name}: {str(sign).lower()}" for name, sign in given.items()),
            expected="one answer; OpenAI's weights need QuickGELU",
        )
    if given:
        return next(iter(given.values()))
    kinds = set() if source.config is not None else _activations(source.model)
    if len(kinds) > 1:
        raise SetupError(
            f"clip.pretrained: weights for {source.model} were published with GELU and with QuickGELU, and "
            f"{source.path} does not name the one it needs; the other one gives wrong features without an error",
            found="quick_gelu: null", choices=["true (OpenAI, MetaCLIP, DFN)", "false (LAION-2B)"],
            run="set clip.pretrained.quick_gelu",
        )  # fmt: skip
    return True in kinds


def _activations(name: str) -> set[bool]:
    """Whether the weights that open_clip knows for a model use QuickGELU: one answer, both, or none known."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(name)
    return {bool(get_pretrained_cfg(name, tag).get("quick_gelu", False)) for tag in tags}


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


def _load(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    if "positional_embedding" in weights and "text.positional_embedding" in own:
        from open_clip.model import convert_to_custom_text_state_dict

        weights = convert_to_custom_text_state_dict(weights)
    for name in ("logit_scale", "logit_bias"):
        if name in weights and name in own:
            weights[name] = weights[name].reshape(own[name].shape)
    for name in OPENAI:
        weights.pop(name, None)
    load_weights(model, weights, str(path))


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    content: Any
    try:
        if path.suffix == ".safetensors":
            content = dict(load_file(path))
        elif _is_torchscript(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # deprecated, and what OpenAI publishes
                archive = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
                content = archive.state_dict()  # none of its methods is called
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file: what is raised depends on what it is
        raise SetupError(
            f"the CLIP weights {path} cannot be read ({_first_line(error)})",
            expected="safetensors, a torch checkpoint of plain tensors (no pickled code), or a TorchScript archive",
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SetupError(
            f"the CLIP weights {path} have no state dict", expected="a mapping of names to tensors"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(name).name == "constants.pkl" for name in archive.namelist())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
