"""SEED-Voken's tokenizers (IBQ, its VQ, Open-MAGVIT2's LFQ), and SimVQ's, which is built on Open-MAGVIT2.

Sources: IBQ, arXiv 2412.02692; Open-MAGVIT2, arXiv 2409.04410; SimVQ, arXiv 2411.02038. Their configs are those of
LightningCLI (`class_path`, `init_args`). Their evaluation uses the averaged weights where `use_ema` is set.

IBQ takes the code of the largest product with the raw rows. VQ with `l2_normalize` compares directions and passes the
raw row on. LFQ takes signs; the first channel is the least significant bit of an index, as it is here. In the first
release of Open-MAGVIT2 (`taming.models.lfqgan.VQModel`, a decoder without adaptive norms) it is the most significant
one: there the channels are turned round before the quantizer and back after it. SimVQ's codes are the rows of
`quantize.embedding` under the linear layer `quantize.embedding_proj`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from vqpipe.errors import MismatchError, ParamsError
from vqpipe.library.foreign.contract import Family, Options, Plan, Source
from vqpipe.library.foreign.taming import BETA, STARTED, TRAINING, network
from vqpipe.library.foreign.trunks import (
    DdConfig,
    MagvitDdConfig,
    magvit_sources,
    magvit_trunk,
    same_channels,
    vqgan_sources,
)
from vqpipe.params.base import Params

PREFIXES = ("src.", "", "OpenImageTokenizer.")
"""Before the module's name: in the repository's two states, and with its folder on the path."""
SCHEDULE = (
    "warmup_epochs", "scheduler_type", "min_learning_rate", "gradient_clip_val", "resume_lr", "lr_drop_epoch",
    "lr_drop_rate", "stage", "accumulate_steps", "use_shared_epoch", "sche_type", "wpe", "wp", "wp0", "max_iter",
    "wp_iter", "lr_drop_iter",
)  # fmt: skip
ENTROPY = (
    "use_entropy_loss", "sample_minimization_weight", "batch_maximization_weight", "entropy_temperature",
)  # fmt: skip
MASK = "quantize.mask"
"""Powers of two by channel, in versions of LFQ that store them."""
ADAPTIVE = "decoder.adaptive."
"""Beginning of the names of the decoder's adaptive norms."""
IMPLIED = (MASK, "quantize.zero", "quantize.codebook")
"""What those versions store although the arithmetic implies it."""


class VqConfig(Params):
    """`init_args` of the VQ."""

    ddconfig: DdConfig
    """Encoder and decoder."""
    embed_dim: Annotated[int, Field(ge=1)]
    """Dimension of a code."""
    n_embed: Annotated[int, Field(ge=1)]
    """K, the number of codes."""
    remap: Literal[None] = None
    """A file that renumbers the codes."""
    use_ema: bool = False
    """Whether the file has averaged weights."""
    l2_normalize: bool = False
    """Compare directions instead of distances."""


class IbqConfig(VqConfig):
    """`init_args` of IBQ."""

    l2_normalize: Literal[False] = False  # type: ignore[assignment]
    """The public class takes true and searches by products with raw rows all the same; one that reads it would not."""
    cosine_similarity: Literal[False] = False
    """As `l2_normalize`."""


class LfqConfig(Params):
    """`init_args` of Open-MAGVIT2's tokenizer."""

    ddconfig: MagvitDdConfig
    """Encoder and decoder."""
    embed_dim: Annotated[int, Field(ge=1, le=24)]
    """Bits of an index; `z_channels` too."""
    n_embed: Annotated[int, Field(ge=2)]
    """K = 2^embed_dim."""
    use_ema: bool = False
    """Whether the file has averaged weights."""
    token_factorization: Literal[False] = False
    """True numbers a position's code by two indices, which only its generator does."""


class SimQuantizer(Params):
    """`quantconfig.params` of SimVQ."""

    n_e: Annotated[int, Field(ge=1)]
    """K, the number of codes."""
    e_dim: Annotated[int, Field(ge=1)]
    """Dimension of a code; `z_channels` too."""
    beta: float | int = 0.25
    """Of the code losses."""
    legacy: bool = True
    """Which of the code losses `beta` weighs."""
    remap: Literal[None] = None
    """A file that renumbers the codes."""
    unknown_index: Literal["random", "extra"] | int = "random"
    """Of codes beyond `remap`: of none, where that is null."""
    sane_index_shape: bool = False
    """The shape in which the class gives indices."""


class SimQuantConfig(Params):
    """`quantconfig` of SimVQ."""

    target: Literal["taming.modules.vqvae.quantize.SimVQ"]
    """The quantizer's class."""
    params: SimQuantizer
    """Its arguments."""


class SimVqConfig(Params):
    """`init_args` of SimVQ's tokenizer."""

    ddconfig: MagvitDdConfig
    """Encoder and decoder."""
    quantconfig: SimQuantConfig
    """The quantizer."""
    use_ema: bool = False
    """Whether the file has averaged weights."""


def vq_plan(config: VqConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """A codebook searched by Euclidean distance, or by cosine with raw rows."""
    metric = {"distance": "cosine"} if config.l2_normalize else {}
    return _rows(config, {"kind": "vq", **BETA, **metric})


def ibq_plan(config: IbqConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """A codebook searched by the largest product."""
    quantizer = {
        "kind": "ibq", "beta": 0.25, "init": "uniform", "entropy_weight": 0.05, "sample_weight": 1.0,
        "batch_weight": 1.0, "inverse_temperature": 100.0,
    }  # fmt: skip
    return _rows(config, quantizer)


def _rows(config: VqConfig, quantizer: dict[str, Any]) -> Plan:
    dd, shape = config.ddconfig, (config.n_embed, config.embed_dim)
    sources = vqgan_sources(dd.form)
    sources["quantizer.codes"] = Source(("quantize.embedding.weight",), shape=shape)
    whole = {**quantizer, "num_codes": config.n_embed, "dim": config.embed_dim}
    return Plan(**network(dd.form, dd.resolution), quantizer=whole, sources=sources, constants=STARTED)


def lfq_plan(config: LfqConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """Signs of the latent's channels, the first channel the least significant bit."""
    return _signs(config, state, options, where, first_release=False)


def early_lfq_plan(config: LfqConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """The class's name in the first release and in the next one, which has the adaptive norms and the other order."""
    return _signs(config, state, options, where, not any(key.startswith(ADAPTIVE) for key in state))


def _signs(
    config: LfqConfig, state: Mapping[str, Tensor], options: Options, where: str, first_release: bool
) -> Plan:
    dd, bits = config.ddconfig, config.embed_dim
    if dd.z_channels != bits or config.n_embed != 2**bits:
        raise ParamsError(
            f"{where}: LFQ without projections needs z_channels = embed_dim and n_embed = 2^embed_dim",
            found=f"z_channels {dd.z_channels}, embed_dim {bits}, n_embed {config.n_embed}",
        )
    powers = [2**bit for bit in range(bits)]
    weights = state[MASK].tolist() if MASK in state else powers[::-1] if first_release else powers
    if weights not in (powers, powers[::-1]):
        raise MismatchError(
            f"{where}: the order of the bits of an index is not Open-MAGVIT2's", found=f"{MASK}: {weights}",
            expected="powers of two, the largest or the smallest first",
        )  # fmt: skip
    largest_first, adaptive = weights != powers, not first_release
    return Plan(
        options.resolution or dd.resolution, magvit_trunk(dd, adaptive), sources=magvit_sources(dd, adaptive),
        unused=IMPLIED, constants=same_channels(bits, reverse=largest_first),
        quantizer={
            "kind": "lfq", "dim": bits, "commitment_weight": 0.25, "entropy_weight": 0.1, "sample_weight": 1.0,
            "batch_weight": 1.0, "inverse_temperature": 100.0,
        },
        note=f"the first channel is the {'most' if largest_first else 'least'} significant bit of an index",
    )  # fmt: skip


def sim_plan(config: SimVqConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """Frozen rows under one linear layer."""
    dd, quant = config.ddconfig, config.quantconfig.params
    if dd.z_channels != quant.e_dim:
        raise ParamsError(
            f"{where}: SimVQ needs z_channels and e_dim to be equal",
            found=f"{dd.z_channels} and {quant.e_dim}",
        )
    dim, rows = quant.e_dim, "quantize.embedding.weight"
    sources = magvit_sources(dd, False)
    sources["quantizer.frozen"] = Source((rows,), shape=(quant.n_e, dim))
    sources["quantizer.map.weight"] = Source(("quantize.embedding_proj.weight",), shape=(dim, dim))
    sources["quantizer.map.bias"] = Source(("quantize.embedding_proj.bias",), shape=(dim,))
    return Plan(
        options.resolution or dd.resolution, magvit_trunk(dd, False), sources=sources, frozen=(rows,),
        constants={**same_channels(dim), **STARTED},
        quantizer={
            "kind": "sim_vq", "num_codes": quant.n_e, "dim": dim, "beta": float(quant.beta), "bias": True,
            "beta_on": "codebook" if quant.legacy else "commitment", "init": "standard",
        },
    )  # fmt: skip


def _named(module: str) -> tuple[str, ...]:
    return tuple(prefix + module for prefix in PREFIXES)


IBQ = Family(
    "IBQ, SEED-Voken", (*_named("IBQ.models.ibqgan.IBQ"), *_named("IBQ.models.ibqgan_pretrain.IBQ")), IbqConfig,
    (*TRAINING, *SCHEDULE, *ENTROPY), ibq_plan, averaged=True,
)  # fmt: skip
SEED_VQ = Family(
    "VQ, SEED-Voken", (*_named("IBQ.models.ibqgan.VQModel"), *_named("IBQ.models.ibqgan_pretrain.VQModel")),
    VqConfig, (*TRAINING, *SCHEDULE), vq_plan, averaged=True,
)  # fmt: skip
LFQ = Family(
    "LFQ, Open-MAGVIT2",
    (*_named("Open_MAGVIT2.models.lfqgan.VQModel"), *_named("Open_MAGVIT2.models.lfqgan_pretrain.VQModel")),
    LfqConfig, (*TRAINING, *SCHEDULE, *ENTROPY, "factorized_bits"), lfq_plan, averaged=True,
)  # fmt: skip
EARLY_LFQ = Family(
    "LFQ, Open-MAGVIT2 before SEED-Voken", ("taming.models.lfqgan.VQModel",), LfqConfig, LFQ.training, early_lfq_plan,
    averaged=True,
)  # fmt: skip
SIM_VQ = Family(
    "SimVQ", ("taming.models.vq.VQModel",), SimVqConfig, (*TRAINING, *SCHEDULE), sim_plan, averaged=True,
)  # fmt: skip
