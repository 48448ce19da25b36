"""taming-transformers' VQGANs, latent-diffusion's, CVQ-VAE's quantizer in them, and LG-VQ's.

Sources: Esser et al., arXiv 2012.09841; Rombach et al., arXiv 2112.10752; Zheng and Vedaldi, arXiv 2307.15139; LG-VQ,
arXiv 2405.14206. One codebook `quantize.embedding.weight`, searched by Euclidean distance. A quantizer with running
usage `quantize.embed_prob` is CVQ-VAE's, which is searched by cosine by default, and by Euclidean distance inside
LG-VQ; the row as it is is the code. Gumbel-VQ has logits `quantize.proj` and codes `quantize.embed`: its class draws
noise in eval mode too; here, as in `GumbelQuantizer`, the code of the largest logit is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from vqpipe.errors import MismatchError, ParamsError
from vqpipe.library.foreign.contract import Family, Options, Plan, Source
from vqpipe.library.foreign.trunks import DdConfig, Form, LdmDdConfig, vqgan_sources
from vqpipe.params.base import Params

USAGE = "quantize.embed_prob"
"""The running usage of CVQ-VAE's quantizer: only it has one."""
BETA = {"beta": 0.25, "beta_on": "codebook", "init": "uniform"}
"""Of the code losses in these projects' classes; only a training would read it."""
STARTED = {"quantizer.initialised": torch.tensor(True)}
TRAINING = (
    "lossconfig", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "monitor", "sane_index_shape",
    "learning_rate", "base_learning_rate", "scheduler_config", "lr_g_factor", "batch_resize_range", "beta", "legacy",
)  # fmt: skip
CVQ_FIELDS = ("distance", "anchor", "first_batch", "contras_loss")
"""Arguments of CVQ-VAE's quantizer."""
LG_TRUNK = (
    "drop_prob", "clip_text_truncate_len", "mask_transformer_layer", "mask_transformer_head", "text_mask_ratio",
)  # fmt: skip
"""Fields of LG-VQ's `ddconfig` about its transformer over masked captions."""
LG_PARTS = ("mskTransformer", "mask_learned_parameter", "wrsr_fc", "mlm_layer", "clip_model")
"""Networks of LG-VQ's losses."""


class VqganConfig(Params):
    """`model.params` without the losses."""

    ddconfig: DdConfig
    """Encoder and decoder."""
    embed_dim: Annotated[int, Field(ge=1)]
    """Dimension of a code."""
    n_embed: Annotated[int, Field(ge=1)]
    """K, the number of codes."""
    remap: Literal[None] = None
    """A file that renumbers the codes; such a checkpoint's indices are not those of its codebook."""
    use_l2_norm: Literal[False, None] = None
    """True changes the search in some projects; the classes here have none."""
    l2_norm: Literal[False, None] = None
    """As `use_l2_norm`."""
    l2_normalize: Literal[False, None] = None
    """As `use_l2_norm`."""
    codebook_l2_norm: Literal[False, None] = None
    """As `use_l2_norm`."""
    use_cosine_sim: Literal[False, None] = None
    """As `use_l2_norm`."""
    use_ema: Literal[False, None] = None
    """True adds averaged weights, which these classes do not have."""
    distance: Literal["l2", "euclidean", "cos", "cosine", None] = None
    """The search of CVQ-VAE's quantizer; null is its class's: `cos`, and `l2` inside LG-VQ."""
    anchor: Literal["closest", "probrandom", "random", None] = None
    """What its dead codes move to in training."""
    first_batch: bool | None = None
    """Whether they move once only."""
    contras_loss: bool | None = None
    """Whether its loss has a contrastive term."""


class LdmConfig(VqganConfig):
    """The same of latent-diffusion."""

    ddconfig: LdmDdConfig
    use_ema: bool | None = None  # type: ignore[assignment]
    """Whether the class has averaged weights next to the others."""


class GumbelConfig(Params):
    """`model.params` of Gumbel-VQ."""

    ddconfig: DdConfig
    """Encoder and decoder."""
    embed_dim: Annotated[int, Field(ge=1)]
    """Dimension of a code; the class needs it to equal `z_channels`."""
    n_embed: Annotated[int, Field(ge=1)]
    """K, the number of codes and of logits."""
    kl_weight: Annotated[float | int, Field(ge=0)] = 5e-4
    """Weight of the divergence to uniform, in nats per position."""
    remap: Literal[None] = None
    """A file that renumbers the codes."""


def network(form: Form, resolution: int) -> dict[str, Any]:
    """What a plan says of a VQGAN trunk."""
    return {"resolution": resolution, "trunk": form.trunk}


def vq_plan(
    config: VqganConfig, state: Mapping[str, Tensor], options: Options, where: str, default: str = "cos",
    clustered: bool = False,
) -> Plan:  # fmt: skip
    """One codebook, searched by distance.

    It is CVQ-VAE's where the file has its running usage, where the config states `distance` and another of its
    arguments, or by `clustered`; `default` is then the distance of a config that states none.
    """
    dd, shape = config.ddconfig, (config.n_embed, config.embed_dim)
    sources = vqgan_sources(dd.form)
    sources["quantizer.codes"] = Source(("quantize.embedding.weight",), shape=shape)
    quantizer: dict[str, Any] = {"num_codes": config.n_embed, "dim": config.embed_dim, **BETA}
    if "quantize.embed.weight" in state:
        raise MismatchError(
            f"{where} is of a Gumbel VQGAN, and its config's class is not", found="quantize.embed.weight",
            expected="target: taming.models.vqgan.GumbelVQ",
        )  # fmt: skip
    stated = [name for name in CVQ_FIELDS if getattr(config, name) is not None]
    if not (clustered or USAGE in state or (config.distance and len(stated) > 1)):
        foreign = [f"{name}: {getattr(config, name)}" for name in stated]
        if foreign and config.distance not in ("l2", "euclidean"):
            raise ParamsError(
                f"{where}: the config has fields of CVQ-VAE's quantizer, and the checkpoint has no {USAGE}",
                found=", ".join(foreign), expected="a config without them, a checkpoint of CVQ-VAE's quantizer, or "
                "--layout cvq where you know that it is one",
            )  # fmt: skip
        return Plan(
            **network(dd.form, dd.resolution), quantizer={"kind": "vq", **quantizer}, sources=sources,
            constants=STARTED,
        )  # fmt: skip
    constants = dict(STARTED)
    if USAGE in state:
        sources["quantizer.usage"] = Source((USAGE,), shape=(config.n_embed,))
    else:  # only a training reads it, and starts it at 0
        constants["quantizer.usage"] = torch.zeros(config.n_embed)
    metric = "cosine" if (config.distance or default) in ("cos", "cosine") else "euclidean"
    return Plan(
        **network(dd.form, dd.resolution), sources=sources, constants=constants, frozen=(USAGE,),
        quantizer={
            "kind": "cvq", **quantizer, "beta_on": "commitment", "distance": metric, "decay": 0.99,
            "anchor": config.anchor or "probrandom",
            "contrastive": {"weight": 1.0, "temperature": 0.07} if config.contras_loss else None,
        },
        note=f"CVQ-VAE's quantizer, searched by {metric} distance, "
        + ("as the config says" if config.distance else "its class's default: the config states no `distance`"),
    )  # fmt: skip


def cvq_plan(config: VqganConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """CVQ-VAE's quantizer by name, also where the file has no running usage."""
    return vq_plan(config, state, options, where, clustered=True)


def vqct_cvq_plan(config: VqganConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """CVQ-VAE's quantizer as VQCT's code compares it: by Euclidean distance."""
    return vq_plan(config, state, options, where, default="l2", clustered=True)


def lg_plan(config: VqganConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """LG-VQ: as VQGAN, or with CVQ-VAE's quantizer, there by Euclidean distance."""
    return vq_plan(config, state, options, where, default="l2")


def gumbel_plan(config: GumbelConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """Logits of a 1x1 convolution."""
    dd, dim, codes = config.ddconfig, config.embed_dim, config.n_embed
    if dd.z_channels != dim:
        raise ParamsError(
            f"{where}: Gumbel-VQ needs embed_dim and z_channels to be equal",
            found=f"{dim} and {dd.z_channels}",
        )
    sources = vqgan_sources(dd.form)
    sources["quantizer.logits.weight"] = Source(("quantize.proj.weight",), shape=(codes, dim, 1, 1))
    sources["quantizer.logits.bias"] = Source(("quantize.proj.bias",), shape=(codes,))
    sources["quantizer.codes"] = Source(("quantize.embed.weight",), shape=(codes, dim))
    return Plan(
        **network(dd.form, dd.resolution), sources=sources, constants=STARTED,
        quantizer={
            "kind": "gumbel", "dim": dim, "num_codes": codes, "kl_weight": float(config.kl_weight), "hard": False,
            "temperature": {"kind": "cosine", "start": 0.9, "end": 1e-6},
        },
        note="the code of the largest logit; the project's own class draws noise in eval mode too",
    )  # fmt: skip


VQ = Family(
    "VQGAN, taming-transformers",
    ("taming.models.vqgan.VQModel", "taming.models.vqgan.VQNoDiscModel", "taming.models.vqgan.EMAVQ"),
    VqganConfig, TRAINING, vq_plan,
)  # fmt: skip
GUMBEL = Family(
    "Gumbel-VQ, taming-transformers", ("taming.models.vqgan.GumbelVQ",), GumbelConfig,
    (*TRAINING, "temperature_scheduler_config"), gumbel_plan,
)  # fmt: skip
LDM = Family(
    "VQ, latent-diffusion", ("ldm.models.autoencoder.VQModel", "ldm.models.autoencoder.VQModelInterface"),
    LdmConfig, TRAINING, vq_plan,
)  # fmt: skip
CVQ = Family(
    "CVQ-VAE's quantizer in a VQGAN, a class of any name", (), LdmConfig, TRAINING, cvq_plan,
    reads=(*VQ.targets, *LDM.targets),
)  # fmt: skip
VQCT_CVQ = Family(
    "CVQ-VAE's quantizer, VQCT's code",
    ("taming.models.vqgan_cvq.VQModel",),
    VqganConfig,
    TRAINING,
    vqct_cvq_plan,
)
LG_VQ = Family(
    "LG-VQ", ("taming.models.LG_vqgan.VQModel", "taming.models.LG_cvq.VQModel"), VqganConfig,
    TRAINING, lg_plan, training_trunk=LG_TRUNK,
    left_out=("loss", "discriminator", "perceptual_loss", "colorize", *LG_PARTS),
)  # fmt: skip
