"""A foreign VQGAN checkpoint (taming-transformers layout) as a tokenizer of this library.

Source: Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (arXiv 2012.09841). That layout and
`vqpipe.models.trunk` compute the same function; only names differ, and attention has three separate projections.
`name_table` is the whole of the difference. `VqganParams` is the part of its YAML config, under `model.params`, that
decides what the network computes; only tensors of its checkpoint are read, never code.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.artifacts.publish import file_digest
from vqpipe.errors import DataError, MismatchError, ParamsError, did_you_mean
from vqpipe.params.base import Params, read_yaml, section_of, validate
from vqpipe.quantizers import build
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams

GROUPS = 32
"""Groups of every GroupNorm in that layout."""
TARGETS = (
    "taming.models.vqgan.VQModel", "taming.models.vqgan.VQNoDiscModel", "taming.models.vqgan.EMAVQ",
    "ldm.models.autoencoder.VQModel", "ldm.models.autoencoder.VQModelInterface",
)  # fmt: skip
"""Classes (`model.target`) that encode and decode with one codebook, searched by Euclidean distance to its rows."""
TRAINING_ONLY = (
    "lossconfig", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "monitor", "sane_index_shape",
    "learning_rate", "base_learning_rate", "scheduler_config", "lr_g_factor", "batch_resize_range", "beta", "legacy",
)  # fmt: skip
"""Fields of `model.params` that do not change which indices an image gets, nor which image indices give."""
NEUTRAL: dict[str, tuple[object, ...]] = {
    "use_ema": (False, None), "use_l2_norm": (False, None), "l2_norm": (False, None), "l2_normalize": (False, None),
    "codebook_l2_norm": (False, None), "use_cosine_sim": (False, None), "distance": ("l2", "euclidean", None),
}  # fmt: skip
"""Fields of `model.params` that change the arithmetic, and the values with which they do not."""
MODEL_FIELDS = ("target", "params", "base_learning_rate", "learning_rate")
"""Fields of `model`."""
CONFIG_SECTIONS = (
    "model", "data", "dataset", "lightning", "trainer", "seed_everything", "ckpt_path", "logger", "callbacks",
)  # fmt: skip
"""Sections of the file; all but `model` are about the training."""
POINTER = b"version https://git-lfs"
"""How a Git LFS pointer file begins."""
HEAD = 64
"""Bytes of a file that are inspected before it is read."""
LAYOUT = "VQGAN, taming-transformers"
BLOCK = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "shortcut"}
"""Parts of a residual block: their name, ours."""
ATTENTION = {("norm",): "norm", ("q", "k", "v"): "qkv", ("proj_out",): "out"}
"""Parts of an attention block: their names, joined along the output channels into ours."""
LEFT_OUT = ("loss", "model_ema", "discriminator", "perceptual_loss", "colorize")
"""First parts of the keys that encoding and decoding do not need; any other key must be mapped."""
STATISTICS = ("quantize.embedding.cluster_size", "quantize.embedding.embed_avg", "quantize.cluster_size",
              "quantize.embed_avg", "quantize.ema_w")  # fmt: skip
"""Running averages that only training reads."""
GUMBEL = ("quantize.proj.weight", "quantize.proj.bias", "quantize.embed.weight")
"""Keys of the Gumbel variant's quantizer."""
AVERAGING = ("model_ema.decay", "model_ema.num_updates")
"""Entries of averaged weights that are not weights."""
SHOWN = 6

Names = dict[str, tuple[str, ...]]
"""Our name of a parameter, without `.weight` or `.bias`, to theirs; several are joined along the first axis."""


class DdConfig(Params):
    """`model.params.ddconfig`: encoder and decoder."""

    ch: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)]
    """Channels of the encoder's first convolution; every width is a multiple of it."""
    ch_mult: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Channels of each level as a multiple of `ch`."""
    num_res_blocks: Annotated[int, Field(ge=1)]
    """Residual blocks per level of the encoder; the decoder has one more."""
    attn_resolutions: tuple[Annotated[int, Field(ge=1)], ...]
    """Sides, in pixels, at which every block is followed by attention."""
    resolution: Annotated[int, Field(ge=8)]
    """Side of the images, pixels."""
    z_channels: Annotated[int, Field(ge=1)]
    """Channels of the encoder's output."""
    in_channels: Literal[3]
    """Channels of the images that the encoder takes."""
    out_ch: Literal[3]
    """Channels of the images that the decoder gives."""
    dropout: Annotated[float | int, Field(ge=0, lt=1)] = 0.0
    """Dropout inside residual blocks."""
    double_z: Literal[False] = False
    """True is a Gaussian latent (a KL autoencoder), which has no codebook."""
    resamp_with_conv: Literal[True] = True
    """Down- and up-sampling have a convolution."""
    attn_type: Literal["vanilla", "vanilla-xformers"] = "vanilla"
    """Which attention; the two names compute the same."""
    use_linear_attn: Literal[False] = False
    """True is linear attention, which is not this trunk's."""
    give_pre_end: Literal[False] = False
    """True stops the decoder before its last convolution."""
    tanh_out: Literal[False] = False
    """True puts a tanh after the decoder."""

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """The levels (0 is the full resolution) whose side is in `attn_resolutions`."""
        return tuple(
            level
            for level in range(len(self.ch_mult))
            if self.resolution // 2**level in self.attn_resolutions
        )


class VqganParams(Params):
    """`model.params` without the losses."""

    ddconfig: DdConfig
    """Encoder and decoder."""
    embed_dim: Annotated[int, Field(ge=1)]
    """Dimension of a code."""
    n_embed: Annotated[int, Field(ge=1)]
    """K, the number of codes."""
    remap: Literal[None] = None
    """A file that renumbers the codes; such a checkpoint's indices are not those of its codebook."""

    @model_validator(mode="after")
    def _divides(self) -> VqganParams:
        factor = 2 ** (len(self.ddconfig.ch_mult) - 1)
        if self.ddconfig.resolution % factor:
            raise ValueError(
                f"resolution {self.ddconfig.resolution} is not a multiple of {factor}, the downsampling"
            )
        return self


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a `.safetensors` file or of a PyTorch checkpoint, on the CPU.

    PyTorch files are read with `weights_only=True`: nothing of them runs. A state dict is taken from under the key
    `state_dict` where there is one.

    Raises:
        DataError: no such file, a Git LFS pointer, a web page, a file that is cut short, one whose pickle has more
            than tensors and plain values, or one without a state dict.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file", expected="a checkpoint: .ckpt, .pt, .pth or .safetensors")
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if head.startswith(POINTER):
        raise DataError(
            f"{path} is a Git LFS pointer and not the checkpoint itself", found=f"{path.stat().st_size} bytes",
            expected="the file itself", run="git lfs pull, in the repository that it came from",
        )  # fmt: skip
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise DataError(f"{path} is a web page, not a checkpoint", run="download the file again")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    found = content.get("state_dict", content)
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(
            f"{path} has no state dict", found=f"the keys {', '.join(sorted(map(str, content))[:12])}",
            expected="tensors by name, or a mapping `state_dict` of them",
        )  # fmt: skip
    return {str(name): tensor.detach() for name, tensor in found.items()}


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from error


def _torch(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read as a PyTorch checkpoint: it is damaged, cut short or something else",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        ) from error  # fmt: skip
    if not isinstance(content, Mapping):
        raise DataError(f"{path} has no state dict", found=type(content).__name__)
    return content


def _refused(path: Path, reason: str) -> DataError:
    """The error for a pickle that has more than weights; `reason` is torch's text."""
    lines = [line.strip() for line in reason.splitlines()]
    named = next(
        (line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0] if lines else ""
    )
    return DataError(
        f"{path} is refused: its pickle needs code that is not on PyTorch's list of safe types, and loading "
        "it would run that code",
        found=named[:300],
        expected="a file of weights only. Where you trust this one, load it in a sandbox with the software that "
        "wrote it and save `{'state_dict': checkpoint['state_dict']}`, or the state dict as .safetensors",
    )  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """A tokenizer made of foreign weights, in eval mode, and what became of the checkpoint's keys."""

    tokenizer: Tokenizer
    num_mapped: int
    """Keys of the checkpoint that the tokenizer uses."""
    left_out: tuple[str, ...]
    """The other keys, sorted: losses, averaged copies, statistics of training."""

    @property
    def left_out_counts(self) -> dict[str, int]:
        """Keys that were left out, by their first part."""
        return dict(sorted(Counter(key.split(".")[0] for key in self.left_out).items()))


def name_table(config: DdConfig) -> Names:
    """Every module of the tokenizer and the modules of the checkpoint that it is made of."""
    names: Names = {"quant_conv": ("quant_conv",), "post_quant_conv": ("post_quant_conv",)}
    names |= {
        "encoder.stem": ("encoder.conv_in",), "encoder.head.0": ("encoder.norm_out",),
        "encoder.head.2": ("encoder.conv_out",), "decoder.stem": ("decoder.conv_in",),
        "decoder.head.0": ("decoder.norm_out",), "decoder.out": ("decoder.conv_out",),
    }  # fmt: skip
    last = len(config.ch_mult) - 1
    for level, multiplier in enumerate(config.ch_mult):
        attention = level in config.attention_levels
        below = config.ch_mult[max(0, level - 1)] if level else 1
        above = config.ch_mult[min(last, level + 1)]
        names |= _level(
            f"encoder.levels.{level}",
            f"encoder.down.{level}",
            config.num_res_blocks,
            attention,
            below != multiplier,
        )
        names |= _level(
            f"decoder.levels.{last - level}", f"decoder.up.{level}", config.num_res_blocks + 1, attention,
            above != multiplier,
        )  # fmt: skip
        if level < last:
            names[f"encoder.downs.{level}.conv"] = (f"encoder.down.{level}.downsample.conv",)
        if level > 0:
            names[f"decoder.ups.{last - level}.conv"] = (f"decoder.up.{level}.upsample.conv",)
    for half in ("encoder", "decoder"):
        names |= _block(f"{half}.middle.0", f"{half}.mid.block_1", False)
        names |= _attention(f"{half}.middle.1", f"{half}.mid.attn_1")
        names |= _block(f"{half}.middle.2", f"{half}.mid.block_2", False)
    return names


def _level(ours: str, theirs: str, num_blocks: int, attention: bool, widens: bool) -> Names:
    names: Names = {}
    for block in range(num_blocks):
        at = 2 * block if attention else block
        names |= _block(f"{ours}.{at}", f"{theirs}.block.{block}", widens and block == 0)
        if attention:
            names |= _attention(f"{ours}.{at + 1}", f"{theirs}.attn.{block}")
    return names


def _block(ours: str, theirs: str, widens: bool) -> Names:
    return {
        f"{ours}.{own}": (f"{theirs}.{name}",)
        for name, own in BLOCK.items()
        if widens or name != "nin_shortcut"
    }


def _attention(ours: str, theirs: str) -> Names:
    return {f"{ours}.{own}": tuple(f"{theirs}.{part}" for part in parts) for parts, own in ATTENTION.items()}


def read_config(path: Path) -> VqganParams:
    """What a VQGAN's YAML config says of the network. Every field must be known: one that is not may change the codes.

    Raises:
        ParamsError: no such file, no `model.params`, a class or a field that is not known, a Gumbel or KL variant, an
            interpolation, or a value that this trunk cannot follow.
    """
    if not path.is_file():
        raise ParamsError(f"{path} is not a file", expected="the YAML config of the checkpoint")
    data = read_yaml(path)
    model = _mapping(section_of(data, "model", path), "model", path)
    _check_target(model, path)
    _check_fields(data, CONFIG_SECTIONS, "", path)
    _check_fields(model, MODEL_FIELDS, "model.", path)
    params = _mapping(section_of(data, "model.params", path), "model.params", path)
    _check_fields(params, (*VqganParams.model_fields, *NEUTRAL, *TRAINING_ONLY), "model.params.", path)
    for name, neutral in NEUTRAL.items():
        if name in params and params[name] not in neutral:
            raise ParamsError(
                f"{path.name}: model.params.{name} changes the codes, and import-vqgan does not read it",
                found=f"{name}: {params[name]!r}", expected=f"{name}: {' or '.join(map(json.dumps, neutral))}",
            )  # fmt: skip
    named = {name: params[name] for name in VqganParams.model_fields if name in params}
    for where, text in _interpolations(named, "model.params"):
        raise ParamsError(
            f"{path.name}: {where} is an interpolation, which import-vqgan does not resolve", found=text,
            expected="the value itself",
        )  # fmt: skip
    return validate(named, "model.params", VqganParams, path.name)


def _mapping(value: Any, name: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ParamsError(
            f"{path.name}: {name} is not a mapping", found=type(value).__name__,
            expected="model: {target: CLASS, params: {embed_dim: …, n_embed: …, ddconfig: {…}}}",
        )  # fmt: skip
    return value


def _check_fields(section: dict[str, Any], known: tuple[str, ...], prefix: str, path: Path) -> None:
    unknown = [str(name) for name in section if name not in known]
    if unknown:
        names = ", ".join(f"{prefix}{name}" for name in unknown)
        hint = did_you_mean(unknown[0], known) if len(unknown) == 1 else ""
        raise ParamsError(
            f"{path.name}: import-vqgan does not know {names}, which may change what the network computes{hint}",
            found=_some([f"{name}: {section[name]!r}"[:80] for name in section if str(name) in unknown]),
            choices=sorted(known),
        )


def _check_target(model: dict[str, Any], path: Path) -> None:
    target = model.get("target", model.get("class_path"))
    if "gumbel" in str(target).lower():
        raise _gumbel(path, str(target))
    if target in TARGETS:
        return
    params = model.get("params")
    nested = isinstance(params, dict) and "first_stage_config" in params
    raise ParamsError(
        f"{path.name}: import-vqgan does not know the class model.target, which may choose its codes in another way",
        found="no target" if target is None else target, choices=TARGETS,
        expected="the config of the first stage alone: what is under model.params.first_stage_config, as `model`"
        if nested else None,
    )  # fmt: skip


def _interpolations(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _interpolations(part, f"{where}.{name}")
    elif isinstance(value, list):
        for at, part in enumerate(value):
            yield from _interpolations(part, f"{where}.{at}")
    elif isinstance(value, str) and "${" in value:
        yield where, value


def import_vqgan(checkpoint: Path, config: Path) -> Imported:
    """Read a checkpoint and its config.

    Raises:
        ParamsError: as `read_config`.
        DataError: as `vqpipe.library.vqgan.read_checkpoint`.
        MismatchError: checkpoint and config do not fit: keys that are missing or beyond the layout, wrong shapes,
            values that are not finite.
    """
    foreign = read_config(config)
    return convert(read_checkpoint(checkpoint), foreign, str(checkpoint))


def convert(state: Mapping[str, Tensor], config: VqganParams, where: str) -> Imported:
    """A tokenizer with the weights of a foreign state dict; errors as `import_vqgan`."""
    if any(key in state for key in GUMBEL):
        raise _gumbel(where, "quantize.proj, quantize.embed")
    params = validate(tokenizer_params(config), "tokenizer", TokenizerParams, where)
    tokenizer = Tokenizer(params, build(params.quantizer, None))
    table = {
        f"{ours}.{part}": tuple(f"{name}.{part}" for name in theirs)
        for ours, theirs in name_table(config.ddconfig).items()
        for part in ("weight", "bias")
    }
    table["quantizer.codes"] = ("quantize.embedding.weight",)
    own = tokenizer.state_dict()
    kept = {"latent_scale", "quantizer.initialised"}
    assert set(table) | kept == set(own), set(table) ^ set(own)
    sources = {name for theirs in table.values() for name in theirs}
    _check_keys(state, sources, where)
    _check_shapes(state, table, {name: tuple(own[name].shape) for name in table}, where)
    joined = {name: torch.cat([state[key].float() for key in theirs]) for name, theirs in table.items()}
    broken = [" + ".join(table[name]) for name, tensor in joined.items() if not tensor.isfinite().all()]
    if broken:
        raise MismatchError(f"{where} has values that are not finite", found=_some(broken))
    tokenizer.load_state_dict({**{name: own[name] for name in kept}, **joined})
    left_out = tuple(sorted(set(state) - sources))
    return Imported(tokenizer.eval().requires_grad_(False), len(sources), left_out)


def publish_import(imported: Imported, checkpoint: Path, config: Path, out: Path) -> None:
    """Publish the tokenizer as an artifact; its facts say where it came from, by hash, and what was left out."""
    origin = {
        "layout": LAYOUT, "checkpoint_sha256": file_digest(checkpoint), "config_sha256": file_digest(config),
        "keys_mapped": imported.num_mapped, "keys_left_out": imported.left_out_counts,
        "note": "params.losses, training and augment are placeholders: the weights were trained elsewhere; "
        "latent_scale is 1, not measured",
    }  # fmt: skip
    imported.tokenizer.save(out, {"weights": "imported", "origin": origin})


def tokenizer_params(config: VqganParams) -> dict[str, Any]:
    """The params of the same network here.

    What a config does not say of the network (losses, training, augmentation) is a placeholder: nothing reads it but
    a training, and this one is over. `beta` and `beta_on` are the public code's: 0.25 on the codebook term.
    """
    dd = config.ddconfig
    return {
        "codebook": "none", "resolution": dd.resolution, "latent_init": "standard", "seed": 0,
        "trunk": {
            "patch": 1, "channels": dd.ch, "channel_multipliers": list(dd.ch_mult), "stem_channels": dd.ch,
            "num_blocks": dd.num_res_blocks, "num_decoder_blocks": None,
            "attention_levels": list(dd.attention_levels), "middle": True, "middle_attention": True,
            "shortcut": False, "latent_channels": dd.z_channels, "dropout": float(dd.dropout),
        },
        "quantizer": {
            "kind": "vq", "num_codes": config.n_embed, "dim": config.embed_dim, "beta": 0.25, "beta_on": "codebook",
            "init": "uniform",
        },
        "losses": {
            "reconstruction": {"l1": 1.0, "l2": 0.0}, "perceptual": {"kind": "none"}, "perceptual_weight": 0.0,
            "quantizer_weight": 1.0,
            "adversarial": {
                "weight": 0.0, "start": 1.0, "warmup": 0.0, "max_adaptive_weight": 1e4,
                "discriminator": {"channels": 64, "num_layers": 3, "lr_scale": 1.0, "norm": "batch"},
            },
        },
        "training": {
            "num_steps": 1, "batch_size": 1, "learning_rate": 4.5e-6, "betas": [0.5, 0.9], "weight_decay": 0.0,
            "warmup_fraction": 0.0, "final_lr_fraction": 1.0, "clip_grad_norm": 0.0, "ema_decay": 0.0,
            "precision": "fp32", "log_every": 1, "checkpoint_every": 1,
        },
        "augment": {"crop": "random", "flip": True},
    }  # fmt: skip


def _gumbel(where: object, found: str) -> ParamsError:
    return ParamsError(
        f"{where} is a Gumbel VQGAN, which import-vqgan does not read: its codes are chosen by logits, not by distance",
        found=found,
        expected="a VQGAN whose quantizer is a codebook with a nearest-code search (quantize.embedding.weight)",
    )


def _check_keys(state: Mapping[str, Tensor], sources: set[str], where: str) -> None:
    missing = sorted(sources - set(state))
    if missing:
        raise MismatchError(
            f"{where} lacks {len(missing)} of the {len(sources)} keys that its config asks for",
            found=f"no {_some(missing)}", expected=f"the {LAYOUT} layout, with the config of this checkpoint",
        )  # fmt: skip
    averaged = sorted(key for key in state if key.startswith("model_ema.") and key not in AVERAGING)
    if averaged:
        raise MismatchError(
            f"{where} has averaged weights and raw ones, and its config's class has only one set: it is of another "
            "class, or it is not known which of the two its published numbers are of", found=_some(averaged),
            expected="one set of weights: a state dict with the keys of model_ema. left out, or in place of the others",
        )  # fmt: skip
    extra = sorted(
        key for key in set(state) - sources if key.split(".")[0] not in LEFT_OUT and key not in STATISTICS
    )
    if extra:
        raise MismatchError(
            f"{where} has {len(extra)} keys that its config does not ask for",
            found=_some(extra), expected="the config of this checkpoint: ch_mult, num_res_blocks and "
            f"attn_resolutions decide which keys there are; apart from these only {', '.join(LEFT_OUT)}",
        )  # fmt: skip


def _check_shapes(
    state: Mapping[str, Tensor],
    table: Mapping[str, tuple[str, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> None:
    """Each source must have an equal share of the first axis of our tensor, and all of the others."""
    wrong = []
    for name, theirs in table.items():
        first, *rest = shapes[name]
        expected = (first // len(theirs), *rest)
        wrong += [
            f"{key} {tuple(state[key].shape)}, not {expected}"
            for key in theirs
            if state[key].shape != expected
        ]
    if wrong:
        raise MismatchError(
            f"{where} has {len(wrong)} tensors of other shapes than its config says", found=_some(wrong, "; "),
            expected="the config of this checkpoint: ch, ch_mult, z_channels, embed_dim and n_embed",
        )  # fmt: skip


def _some(items: list[str], joint: str = ", ") -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return joint.join(items[:SHOWN]) + more
