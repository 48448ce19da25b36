"""LlamaGen's VQ and VQGAN-LC, whose projects keep what decides the network outside of one config file.

Sources: LlamaGen, arXiv 2406.06525; VQGAN-LC, arXiv 2406.11837. LlamaGen's config is the fields of its `ModelArgs` with
`ch` and `num_res_blocks` of its encoder, and no section `model`; with `codebook_l2_norm` latents and rows are compared
on the unit sphere, and the unit row is the code. VQGAN-LC takes K, the quantizer, the projector and the dimension of
a code from its command line: here from the checkpoint's tensors. A config that states one of the first three must agree
with them; the dimension it always states, and the class does not read it (256 in `vq-f8.yaml`, for 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.errors import MismatchError
from vqpipe.library.foreign.contract import Family, Options, Plan, Source
from vqpipe.library.foreign.taming import BETA, STARTED, TRAINING, network
from vqpipe.library.foreign.trunks import GROUPS, LLAMAGEN, DdConfig, Form, vqgan_sources
from vqpipe.params.base import Params

SIDE = 256
"""Side of the images of LlamaGen's training, pixels; its network takes any multiple of the downsampling."""
WORDS, PROJECTOR = "tok_embeddings.weight", "codebook_projection"
EMA = ("cluster_size", "embed_avg")
"""Running averages of VQGAN-LC's EMA baseline; the class has no quantizer module."""
UNIT_DIM = 768
"""Dimension at which VQGAN-LC's class normalises latents before the search, but with trained random codes."""


class LlamagenConfig(Params):
    """`ModelArgs` and two arguments of the encoder and the decoder."""

    codebook_size: Annotated[int, Field(ge=1)] = 16384
    """K, the number of codes."""
    codebook_embed_dim: Annotated[int, Field(ge=1)] = 8
    """Dimension of a code."""
    codebook_l2_norm: bool = True
    """Compare on the unit sphere, and pass the unit row on."""
    encoder_ch_mult: tuple[Annotated[int, Field(ge=1)], ...] = (1, 1, 2, 2, 4)
    """Channels of each level as a multiple of `ch`."""
    decoder_ch_mult: tuple[Annotated[int, Field(ge=1)], ...] = (1, 1, 2, 2, 4)
    """The same of the decoder: that of the encoder here."""
    z_channels: Annotated[int, Field(ge=1)] = 256
    """Channels of the encoder's output."""
    dropout_p: Annotated[float | int, Field(ge=0, lt=1)] = 0.0
    """Dropout inside residual blocks."""
    ch: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)] = 128
    """Channels of the first convolution."""
    num_res_blocks: Annotated[int, Field(ge=1)] = 2
    """Residual blocks per level of the encoder; the decoder has one more."""

    @model_validator(mode="after")
    def _symmetric(self) -> LlamagenConfig:
        if self.encoder_ch_mult != self.decoder_ch_mult:
            raise ValueError(
                f"decoder_ch_mult {list(self.decoder_ch_mult)} is not encoder_ch_mult "
                f"{list(self.encoder_ch_mult)}, and the trunk here has one list for both"
            )
        return self


class LcConfig(Params):
    """`model.params` of VQGAN-LC, with what its command line says where the config states it."""

    ddconfig: DdConfig
    """Encoder and decoder."""
    embed_dim: Annotated[int, Field(ge=1)]
    """Dimension of a code, which the command line overrides: the checkpoint's is read."""
    n_vision_words: Annotated[int, Field(ge=1)] | None = None
    """K; null is the checkpoint's."""
    quantizer_type: Literal["org", "ema", "EMA", None] = None
    """`org` has codes that are frozen or that losses train, `ema` codes that follow their latents; null is the
    checkpoint's."""
    use_cblinear: Literal[0, 1, None] = None
    """1 for one linear layer over the word vectors, 0 for none; null is the checkpoint's."""
    tuning_codebook: Literal[-2, -1, 0, 1, None] = None
    """How the codes started: at random (-1 trained, -2 frozen), as word vectors (0 frozen, 1 trained)."""
    remap: Literal[None] = None
    """A file that renumbers the codes."""


def llamagen_plan(config: LlamagenConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """A codebook on the unit sphere; attention at the lowest level."""
    mult, dim = config.encoder_ch_mult, config.codebook_embed_dim
    form = Form(config.ch, mult, config.num_res_blocks, (len(mult) - 1,), config.z_channels, config.dropout_p)
    sources = vqgan_sources(form, LLAMAGEN)
    rows = "quantize.embedding.weight"
    sources["quantizer.codes"] = Source((rows,), shape=(config.codebook_size, dim))
    kind = {"kind": "fc", "normalise": True} if config.codebook_l2_norm else {"kind": "vq"}
    return Plan(
        **network(form, options.resolution or SIDE), sources=sources, constants=STARTED,
        quantizer={**kind, "num_codes": config.codebook_size, "dim": dim, **BETA, "beta_on": "commitment"},
        unused=("quantize.codebook_used",),
    )  # fmt: skip


def lc_plan(config: LcConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """Word vectors under a linear layer, or codes without one: the project's FC and EMA baselines."""
    dd, last = config.ddconfig, state.get("quant_conv.weight")
    dim = config.embed_dim if last is None or not last.ndim else len(last)
    sources = vqgan_sources(dd.form)
    ema = EMA[0] in state
    layers = [key for key in state if key.startswith(f"{PROJECTOR}.")]
    projected = f"{PROJECTOR}.weight" in state
    _agree(config, ema, bool(layers), where)
    if layers and (ema or not projected):
        raise MismatchError(
            f"{where}: the codes are not words under one linear layer", found=", ".join(sorted(layers)),
            expected=f"{PROJECTOR}.weight and .bias" + ("; codes of EMA have no layer" if ema else ""),
        )  # fmt: skip
    if dim == UNIT_DIM and config.tuning_codebook != -1:
        raise MismatchError(
            f"{where}: at {UNIT_DIM} dimensions VQGAN-LC normalises latents and not the codes, a search that no "
            "quantizer here has", found=f"embed_dim {dim}, tuning_codebook {config.tuning_codebook}",
            expected="another embed_dim, or tuning_codebook: -1, where the class does not",
        )  # fmt: skip
    size, width = state[WORDS].shape if WORDS in state else (config.n_vision_words or 1, dim)
    codes = Source((WORDS,), shape=(config.n_vision_words or size, width if projected else dim))
    base = {"num_codes": size, "dim": dim, **BETA, "beta": 0.33}
    if not projected:
        sources["quantizer.codes"] = codes
        return Plan(
            **network(dd.form, dd.resolution), quantizer={"kind": "vq", **base}, sources=sources, constants=STARTED,
            frozen=(WORDS,), unused=EMA if ema else (),
            note="its class moves the codes after each pass, in eval mode too; here they stay" if ema else "",
        )  # fmt: skip
    sources["quantizer.centroids"] = codes
    sources["quantizer.projector.weight"] = Source((f"{PROJECTOR}.weight",), shape=(dim, width))
    sources["quantizer.projector.bias"] = Source((f"{PROJECTOR}.bias",), shape=(dim,))
    quantizer = {"kind": "lc", **base, "distance": "euclidean", "init": "standard"}
    return Plan(
        **network(dd.form, dd.resolution), quantizer=quantizer, sources=sources, constants=STARTED,
        codebook="patches", frozen=(WORDS,),
    )  # fmt: skip


def _agree(config: LcConfig, ema: bool, layer: bool, where: str) -> None:
    """Refuse a config that says another quantizer than the tensors."""
    stated = config.quantizer_type and config.quantizer_type.lower()
    for name, value, found in (
        ("quantizer_type", stated, "ema" if ema else "org"),
        ("use_cblinear", config.use_cblinear, int(layer)),
    ):
        if value is not None and value != found:
            raise MismatchError(
                f"{where}: the config's {name} is not that of the checkpoint", found=f"{name}: {value}",
                expected=f"{name}: {found}, since the checkpoint has {'a' if layer else 'no'} {PROJECTOR} and "
                f"{'a' if ema else 'no'} {EMA[0]}",
            )  # fmt: skip


LLAMAGEN_VQ = Family(
    "VQ, LlamaGen", (), LlamagenConfig,
    ("codebook_show_usage", "commit_loss_beta", "entropy_loss_ratio", "codebook_loss_beta"),
    llamagen_plan, averaged=True, flat=True,
)  # fmt: skip
LC = Family(
    "VQGAN-LC",
    ("models_vq.VQModel", "models.models_vq.VQModel", "ldm.models.models_vq.VQModel",
     "ldm.models.models_vq.VQModelInterface"),
    LcConfig, (*TRAINING, "rate_q", "rate_p", "local_embedding_path"), lc_plan,
)  # fmt: skip
