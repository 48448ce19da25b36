"""Checkpoints of other projects as tokenizers of this library.

A family (`Family`) is a layout: classes by name, the fields of their config, and a plan of the same network here. Only
tensors of a checkpoint are read, never code. Everything must be accounted for: a class, a field or a tensor that is not
known is refused by name, since each may change the codes.

    imported = import_checkpoint(Path("last.ckpt"), Path("model.yaml"))
    publish_import(imported, Path("last.ckpt"), Path("model.yaml"), Path("vqgan"))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vqpipe.artifacts.publish import MANIFEST, file_digest, read_manifest
from vqpipe.artifacts.specs.tokenizer import TOKENIZER
from vqpipe.errors import ArtifactError, ParamsError
from vqpipe.library.choices import Weights
from vqpipe.library.foreign import others, seed_voken, taming, vqct, weights
from vqpipe.library.foreign.check import Check, look
from vqpipe.library.foreign.config import ForeignConfig, read_config
from vqpipe.library.foreign.contract import Family, Options, Plan
from vqpipe.library.foreign.read import Checkpoint, read_checkpoint
from vqpipe.library.places import need_own
from vqpipe.models.trunk import Decoder, Encoder
from vqpipe.params.base import validate
from vqpipe.quantizers import from_state
from vqpipe.tokenizers.tokenizer import CHANNELS, Tokenizer, TokenizerParams

FAMILIES: dict[str, Family] = {
    "taming": taming.VQ,
    "taming-gumbel": taming.GUMBEL,
    "cvq": taming.CVQ,
    "latent-diffusion": taming.LDM,
    "lg-vq": taming.LG_VQ,
    "vqct": vqct.VQCT,
    "vqct-cvq": taming.VQCT_CVQ,
    "vqgan-lc": others.LC,
    "llamagen": others.LLAMAGEN_VQ,
    "ibq": seed_voken.IBQ,
    "seed-voken-vq": seed_voken.SEED_VQ,
    "open-magvit2": seed_voken.LFQ,
    "open-magvit2-early": seed_voken.EARLY_LFQ,
    "simvq": seed_voken.SIM_VQ,
}
"""Every layout by its name."""
TAKES_RESOLUTION = ("llamagen", "open-magvit2", "open-magvit2-early", "simvq")
"""Layouts whose config does not state the side of the images, or states another one than that of the training (128 for
256 in Open-MAGVIT2's configs); the network is the same at every side."""


@dataclass(frozen=True)
class Imported:
    """A tokenizer made of foreign weights, in eval mode, and what became of the checkpoint's keys."""

    tokenizer: Tokenizer
    layout: str
    """The family's name."""
    title: str
    """The project."""
    weights: Weights
    """Which set of the checkpoint's weights."""
    num_mapped: int
    """Keys of the checkpoint that the tokenizer uses."""
    left_out: tuple[str, ...]
    """The other keys, sorted: losses, another set of weights, statistics of training."""
    check: Check
    """A look at the result."""
    note: str
    """What a reader must know; may be empty."""

    @property
    def left_out_counts(self) -> dict[str, int]:
        """Keys that were left out, by their first part."""
        return dict(sorted(Counter(key.split(".")[0] for key in self.left_out).items()))


def import_checkpoint(
    checkpoint: Path,
    config: Path,
    *,
    layout: str | None = None,
    weights: Weights | None = None,
    words: Path | None = None,
    resolution: int | None = None,
) -> Imported:
    """Read a checkpoint and its config.

    Args:
        checkpoint: a PyTorch or a .safetensors file.
        config: its YAML.
        layout: a name in `FAMILIES`, for a class whose name is not known.
        weights: which set, where there are two and the project's rule is not wanted or not known.
        words: the file of words of a VQCT checkpoint.
        resolution: side of the images in pixels, where the config does not state it or states another.

    Raises:
        ParamsError: as `read_config`, or an option that the layout does not have.
        DataError: as `read_checkpoint` and `vqct.read_words`.
        MismatchError: checkpoint and config do not fit: keys that are missing or beyond the layout, two sets of
            weights and no rule, wrong shapes, values that are not finite.
    """
    foreign = read_config(config, FAMILIES, layout)
    _check_options(foreign, words, resolution)
    return convert(read_checkpoint(checkpoint), foreign, Options(resolution, words), weights, str(checkpoint))


def convert(
    checkpoint: Checkpoint,
    config: ForeignConfig,
    options: Options,
    wanted: Weights | None = None,
    where: str = "the checkpoint",
) -> Imported:
    """A tokenizer with the weights of a foreign checkpoint; errors as `import_checkpoint`."""
    chosen, averaged = weights.choose(checkpoint, config, wanted, where)
    state = checkpoint.state if chosen == "raw" else {**checkpoint.state, **averaged}
    plan: Plan = config.family.plan(config.params, state, options, where)
    weights.check_keys(checkpoint.state, plan, config, where)
    if checkpoint.averaged:
        weights.check_keys(checkpoint.averaged, plan, config, f"{where}, averaged weights")
    state = dict(weights.take(checkpoint.state, plan, averaged, chosen, where))
    params = validate(tokenizer_params(plan), "tokenizer", TokenizerParams, where)
    tensors = {**weights.convert(state, plan, _shapes(params), where), **plan.constants}
    prefix = "quantizer."
    own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    tokenizer = Tokenizer(params, from_state(params.quantizer, own, plan.names))
    tokenizer.load_state_dict({**tensors, "latent_scale": torch.ones(())})
    tokenizer.eval().requires_grad_(False)
    read = {key for source in plan.sources.values() for key in source.keys} | set(plan.used)
    if chosen == "averaged":  # of a parameter and its copy the copy is used
        copies = {key: weights.copy_name(key) for key in read}
        read = {copies[key] if copies[key] in checkpoint.state else key for key in read}
    left_out = tuple(sorted(set(checkpoint.state) - read))
    return Imported(
        tokenizer, config.layout, config.family.title, chosen, len(read), left_out, look(tokenizer, where), plan.note
    )  # fmt: skip


def need_imported(out: Path) -> None:
    """Check that an import can be published at `out`: a new folder, or one of an earlier import.

    Raises:
        ArtifactError: something else, which would be lost, such as a tokenizer that was trained here.
        SetupError: nothing can be written there.
    """
    need_own(out, TOKENIZER)
    facts: Mapping[str, Any] = {"origin": None}
    if (out / MANIFEST).is_file():
        with suppress(ArtifactError):  # a damaged one is mended by importing again
            facts = read_manifest(out).facts
    if "origin" not in facts:
        raise ArtifactError(
            f"{out} has a tokenizer that was trained here, which would be lost",
            expected="a new folder, or one of an earlier import",
        )  # fmt: skip


def publish_import(imported: Imported, checkpoint: Path, config: Path, out: Path) -> None:
    """Publish the tokenizer as an artifact; its facts say where it came from, by hash, and what was left out.

    Raises:
        ArtifactError, SetupError: as `need_imported`.
    """
    need_imported(out)
    note = (
        "params.losses, training and augment are placeholders: the weights were trained elsewhere; "
        "latent_scale is 1, not measured"
    )
    origin = {
        "layout": imported.title, "weights": imported.weights, "checkpoint_sha256": file_digest(checkpoint),
        "config_sha256": file_digest(config), "keys_mapped": imported.num_mapped,
        "keys_left_out": imported.left_out_counts, "codes_reached": list(imported.check.reached),
        "note": f"{note}; {imported.note}" if imported.note else note,
    }  # fmt: skip
    imported.tokenizer.save(out, {"weights": "imported", "codebook": None, "origin": origin})


def tokenizer_params(plan: Plan) -> dict[str, Any]:
    """The params of the same network here.

    What a config does not say of the network (losses, training, augmentation) is a placeholder: nothing reads it but a
    training, and this one is over.
    """
    return {
        "codebook": plan.codebook, "resolution": plan.resolution, "latent_init": "standard", "seed": 0,
        "trunk": plan.trunk, "quantizer": plan.quantizer,
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


def _check_options(config: ForeignConfig, words: Path | None, resolution: int | None) -> None:
    if words is not None and config.layout != "vqct":
        raise ParamsError("--words is for VQCT alone", found=f"a checkpoint of {config.family.title}")
    if resolution is not None and config.layout not in TAKES_RESOLUTION:
        raise ParamsError(
            "--resolution is for layouts whose config need not state it", found=config.family.title,
            choices=[FAMILIES[name].title for name in TAKES_RESOLUTION],
        )  # fmt: skip


def _shapes(params: TokenizerParams) -> dict[str, tuple[int, ...]]:
    """Of every tensor but the quantizer's, without making them."""
    dim, channels = params.quantizer.dim, params.trunk.latent_channels
    with torch.device("meta"):
        module = torch.nn.ModuleDict({
            "encoder": Encoder(params.trunk, CHANNELS), "decoder": Decoder(params.trunk, CHANNELS),
            "quant_conv": torch.nn.Conv2d(channels, dim, 1), "post_quant_conv": torch.nn.Conv2d(dim, channels, 1),
        })  # fmt: skip
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
