"""Small checkpoints in the layouts of several projects, made from facts about the layouts alone.

Nothing here imports the library. Each `Case` has a config, the content of the checkpoint file, images, and the indices
and reconstructions that the layout's arithmetic gives, written out with functions and small modules of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.foreign_vqgan import Reference, State, make_config, make_state

DIM, CODES, CHANNELS = 6, 40, 10
ROWS = "quantize.embedding.weight"


@dataclass
class Case:
    """One checkpoint and what must come out of it."""

    config: dict[str, Any]
    """The YAML file."""
    content: dict[str, Any]
    """The checkpoint file."""
    images: Tensor
    indices: Tensor
    """(b, g, h, w)"""
    reconstruction: Tensor
    kind: str
    """The quantizer here."""
    words: dict[str, np.ndarray] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def images(side: int = 32) -> Tensor:
    """Two of them, with a cell of their own for each position."""
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def rows_of(latent: Tensor) -> Tensor:
    return latent.movedim(1, -1).double()


def by_distance(latent: Tensor, codes: Tensor) -> Tensor:
    return (rows_of(latent)[..., None, :] - codes.double()).square().sum(-1).argmin(-1)


def by_cosine(latent: Tensor, codes: Tensor) -> Tensor:
    return (F.normalize(rows_of(latent), dim=-1) @ F.normalize(codes.double(), dim=-1).T).argmax(-1)


def by_product(latent: Tensor, codes: Tensor) -> Tensor:
    return (rows_of(latent) @ codes.double().T).argmax(-1)


Search = Callable[[Tensor, Tensor], Tensor]


def spread(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of the covariance of rows, and their mean."""
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    return vectors * values.clamp_min(1e-8).sqrt() @ vectors.T, rows.mean(0)


def fit(state: State, config: dict[str, Any], *codes: Tensor) -> None:
    """Change the convolution before the quantizer so that the latents lie among the codes, and many codes are used.

    Each part of the latent gets the mean and the covariance of its codes.
    """
    latent, mean = spread(Reference(state, config).latent(images()).movedim(1, -1).flatten(0, -2))
    colour = torch.block_diag(*[spread(part)[0] for part in codes]) @ torch.linalg.inv(latent)
    weight, bias = state["quant_conv.weight"], state["quant_conv.bias"]
    state["quant_conv.weight"] = torch.einsum("ij,jkhw->ikhw", colour, weight)
    state["quant_conv.bias"] = colour @ (bias - mean) + torch.cat([part.mean(0) for part in codes])


def draw(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lightning(state: State) -> dict[str, Any]:
    return {"state_dict": state, "epoch": 3, "global_step": 40, "callbacks": {}, "optimizer_states": [{}]}


def cli_form(config: dict[str, Any], class_path: str, **changes: Any) -> dict[str, Any]:
    """The same config as LightningCLI writes it."""
    params = {**config["model"]["params"], **changes}
    return {
        "seed_everything": True,
        "model": {"class_path": class_path, "init_args": params},
        "ckpt_path": None,
    }


def averaged(state: State, but: tuple[str, ...] = ()) -> State:
    """Copies of parameters as LitEma names them, with other values, and its two counters."""
    copies = {
        "model_ema." + key.replace(".", ""): tensor + 0.05 * draw(*tensor.shape, seed=len(key))
        for key, tensor in state.items()
        if key not in but
    }
    return {**copies, "model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}


def searched(
    state: State, config: dict[str, Any], search: Search, unit: bool = False
) -> tuple[Tensor, Tensor]:
    """Indices and reconstruction of a layout with rows and a VQGAN trunk."""
    reference = Reference(state, config)
    codes = F.normalize(state[ROWS], dim=-1) if unit else state[ROWS]
    indices = search(reference.latent(images()), codes)
    return indices[:, None], reference.decoded(codes[indices].movedim(-1, 1))


def rows_case(search: Search, kind: str, target: str, extra: State | None = None, **params: Any) -> Case:
    config = make_config()
    config["model"]["target"] = target
    config["model"]["params"] |= params
    state = make_state(config) | (extra or {})
    return Case(config, lightning(state), images(), *searched(state, config, search), kind)


def cvq() -> Case:
    usage = {"quantize.embed_prob": torch.rand(CODES)}
    return rows_case(
        by_cosine, "cvq", "taming.models.vqgan.VQModel", usage, distance="cos", anchor="probrandom", first_batch=False,
        contras_loss=True,
    )  # fmt: skip


def cvq_by_default() -> Case:
    return rows_case(
        by_cosine, "cvq", "taming.models.vqgan.VQModel", {"quantize.embed_prob": torch.rand(CODES)}
    )


def cvq_without_its_usage() -> Case:
    return rows_case(by_cosine, "cvq", "taming.models.vqgan.VQModel", distance="cos", anchor="closest")


def cvq_in_another_class(target: str = "fork.models.Clustered") -> Case:
    case = rows_case(by_cosine, "cvq", target)
    case.options["layout"] = "cvq"
    return case


def cvq_by_name() -> Case:
    return cvq_in_another_class("taming.models.vqgan.VQModel")


def vqct_cvq() -> Case:
    usage = {"quantize.embed_prob": torch.rand(CODES)}
    return rows_case(by_distance, "cvq", "taming.models.vqgan_cvq.VQModel", usage)


def cvq_by_distance() -> Case:
    usage = {"quantize.embed_prob": torch.rand(CODES)}
    return rows_case(by_distance, "cvq", "ldm.models.autoencoder.VQModel", usage, distance="l2")


def lg_vq(
    target: str = "taming.models.LG_vqgan.VQModel", extra: State | None = None, kind: str = "vq"
) -> Case:
    side = {
        "mskTransformer.class_embedding": torch.ones(4), "mask_learned_parameter": torch.ones(1, 30, 4),
        "wrsr_fc.fc.weight": torch.ones(4, 4), "mlm_layer.bias": torch.ones(1, 1, 9),
        "clip_model.logit_scale": torch.ones(()),
    }  # fmt: skip
    case = rows_case(by_distance, kind, target, {**side, **(extra or {})})
    case.config["model"]["params"]["ddconfig"] |= {
        "drop_prob": 0.1, "clip_text_truncate_len": 30, "mask_transformer_layer": 2, "mask_transformer_head": 1,
    }  # fmt: skip
    return case


def lg_cvq() -> Case:
    return lg_vq("taming.models.LG_cvq.VQModel", {"quantize.embed_prob": torch.rand(CODES)}, "cvq")


def latent_diffusion() -> Case:
    return rows_case(
        by_distance, "vq", "ldm.models.autoencoder.VQModelInterface", monitor="val/rec_loss", use_ema=False,
        batch_resize_range=[256, 384],
    )  # fmt: skip


def latent_diffusion_without_attention() -> Case:
    config = make_config(attn_resolutions=[])
    config["model"]["target"] = "ldm.models.autoencoder.VQModel"
    config["model"]["params"]["ddconfig"]["attn_type"] = "none"
    state = {key: tensor for key, tensor in make_state(config).items() if "attn" not in key}
    return Case(config, lightning(state), images(), *searched(state, config, by_distance), "vq")


def seed_voken_vq() -> Case:
    case = rows_case(by_cosine, "vq", "unused")
    case.config = cli_form(
        case.config, "src.IBQ.models.ibqgan.VQModel", l2_normalize=True, learning_rate=1e-4
    )
    return case


def ibq() -> Case:
    config = make_config()
    raw = make_state(config)
    copies = averaged(raw)
    state = {**raw, **copies}
    used = {key: copies["model_ema." + key.replace(".", "")] for key in raw}
    found = searched(used, config, by_product)
    written = cli_form(
        config, "src.IBQ.models.ibqgan.IBQ", use_ema=True, l2_normalize=False, use_entropy_loss=True, resume_lr=None,
        lr_drop_epoch=[250, 300], beta=0.25, entropy_temperature=0.01,
    )  # fmt: skip
    return Case(written, lightning(state), images(), *found, "ibq")


def gumbel() -> Case:
    config = make_config(z_channels=DIM)
    config["model"]["target"] = "taming.models.vqgan.GumbelVQ"
    config["model"]["params"] |= {
        "kl_weight": 1e-8,
        "temperature_scheduler_config": {"target": "some.Schedule"},
    }
    state = make_state(config)
    state["quantize.embed.weight"] = state.pop(ROWS)
    state["quantize.proj.weight"], state["quantize.proj.bias"] = draw(CODES, DIM, 1, 1), draw(CODES, seed=6)
    reference = Reference(state, config)
    logits = reference.conv("quantize.proj", reference.latent(images()))
    indices = logits.argmax(1)
    image = reference.decoded(state["quantize.embed.weight"][indices].movedim(-1, 1))
    return Case(config, lightning(state), images(), indices[:, None], image, "gumbel")


def vqgan_lc(**params: Any) -> Case:
    config = make_config()
    config["model"] |= {"target": "models_vq.VQModel"}
    del config["model"]["params"]["n_embed"]
    config["model"]["params"] |= params
    state = make_state(make_config())
    del state[ROWS]
    state = {key: tensor for key, tensor in state.items() if not key.startswith("loss.")}
    state["discriminator.main.0.weight"] = torch.ones(2)
    words, layer, bias = draw(CODES, 16), draw(DIM, 16, seed=6) / 2, draw(DIM, seed=7)
    state |= {
        "tok_embeddings.weight": words, "codebook_projection.weight": layer, "codebook_projection.bias": bias,
    }  # fmt: skip
    codes = words @ layer.T + bias
    fit(state, config, codes)
    reference = Reference(state, config)
    indices = by_distance(reference.latent(images()), codes)
    image = reference.decoded(codes[indices].movedim(-1, 1))
    return Case(
        config, {"model": state, "epoch": 3, "scaler_ae": {}}, images(), indices[:, None], image, "lc"
    )


def vqgan_lc_of_another_dimension() -> Case:
    """The project's f8 config states 256 dimensions, and its command line 8."""
    return vqgan_lc(embed_dim=256)


def vqgan_lc_in_latent_diffusion() -> Case:
    case = vqgan_lc(local_embedding_path="codes.pth", tuning_codebook=0, use_cblinear=1, n_vision_words=CODES)
    case.config["model"]["target"] = "ldm.models.models_vq.VQModelInterface"
    return case


def vqgan_lc_without_a_layer(ema: bool = False) -> Case:
    """The same project's trained codes."""
    case = rows_case(by_distance, "vq", "models_vq.VQModel", tuning_codebook=-1, use_cblinear=0)
    del case.config["model"]["params"]["n_embed"]
    state = case.content["state_dict"]
    state["tok_embeddings.weight"] = state.pop(ROWS)
    if ema:
        case.config["model"]["params"]["quantizer_type"] = "ema"
        state |= {"cluster_size": torch.ones(CODES), "embed_avg": torch.ones(CODES, DIM)}
    case.content = {"model": state, "epoch": 1}
    return case


def vqgan_lc_ema() -> Case:
    return vqgan_lc_without_a_layer(ema=True)


def llamagen_names(key: str, levels: int) -> str:
    """A key of the taming layout in LlamaGen's."""
    for theirs, own in (("mid.block_1", "mid.0"), ("mid.attn_1", "mid.1"), ("mid.block_2", "mid.2")):
        key = key.replace(theirs, own)
    for level in range(levels):
        key = key.replace(f"encoder.down.{level}.", f"encoder.conv_blocks.{level}.")
        key = key.replace(f"decoder.up.{level}.", f"decoder.conv_blocks.{levels - 1 - level}.")
    return key.replace(".block.", ".res.")


def llamagen(ema: bool = False) -> Case:
    config = make_config(ch_mult=[1, 2, 2], attn_resolutions=[8])
    state = {key: tensor for key, tensor in make_state(config).items() if not key.startswith("loss.")}
    flat = {
        "codebook_size": CODES, "codebook_embed_dim": DIM, "codebook_l2_norm": True, "codebook_show_usage": True,
        "commit_loss_beta": 0.25, "entropy_loss_ratio": 0.0, "encoder_ch_mult": [1, 2, 2], "decoder_ch_mult": [1, 2, 2],
        "z_channels": CHANNELS, "dropout_p": 0.0, "ch": 32, "num_res_blocks": 1,
    }  # fmt: skip
    named = {llamagen_names(key, 3): tensor for key, tensor in state.items()}
    named["quantize.codebook_used"] = torch.zeros(65536)
    content: dict[str, Any] = {"model": named, "steps": 7}
    if ema:
        other = {key: tensor * 1.1 for key, tensor in state.items()}
        content["ema"] = {llamagen_names(key, 3): tensor for key, tensor in other.items()}
        state = other
    found = searched(state, config, by_cosine, unit=True)
    return Case(flat, content, images(), *found, "fc", options={"resolution": 32})


def llamagen_averaged() -> Case:
    return llamagen(ema=True)


class MagvitBlock(nn.Module):
    """A residual block without biases in its convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, inputs, 1e-6), nn.GroupNorm(32, outputs, 1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class MagvitUp(nn.Module):
    """To four times the channels, and from (row, column, channel) to space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        out = y.new_empty(len(y), y.shape[1] // 4, 2 * y.shape[2], 2 * y.shape[3])
        for at, part in enumerate(y.chunk(4, dim=1)):
            out[:, :, at // 2 :: 2, at % 2 :: 2] = part
        return out


class MagvitAdaptive(nn.Module):
    """A norm whose scale and shift come from the latent's moments over positions."""

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(32, channels, 1e-6, affine=False)
        self.gamma, self.beta = nn.Linear(latent, channels), nn.Linear(latent, channels)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        scale = self.gamma((latent.var((2, 3), unbiased=True) + 1e-6).sqrt())
        return self.gn(x) * scale[:, :, None, None] + self.beta(latent.mean((2, 3)))[:, :, None, None]


class MagvitHalf(nn.Module):
    """Encoder or decoder by parts, in the order of their names."""

    def level(self, blocks: list[MagvitBlock], name: str, change: nn.Module | None) -> nn.Module:
        level = nn.Module()
        level.block = nn.ModuleList(blocks)
        if change is not None:
            setattr(level, name, change)
        return level


class MagvitEncoder(MagvitHalf):
    def __init__(self, ch: int, mult: list[int], blocks: int, z: int) -> None:
        super().__init__()
        self.conv_in, self.down, width = nn.Conv2d(3, ch, 3, padding=1, bias=False), nn.ModuleList(), ch
        for at, m in enumerate(mult):
            parts = [MagvitBlock(width if n == 0 else ch * m, ch * m) for n in range(blocks)]
            width = ch * m
            last = at == len(mult) - 1
            change = None if last else nn.Conv2d(width, width, 3, stride=2, padding=1)
            self.down.append(self.level(parts, "downsample", change))
        self.mid_block = nn.ModuleList(MagvitBlock(width, width) for _ in range(blocks))
        self.norm_out, self.conv_out = nn.GroupNorm(32, width, 1e-6), nn.Conv2d(width, z, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                x = block(x)
            x = level.downsample(x) if hasattr(level, "downsample") else x
        for block in self.mid_block:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class MagvitDecoder(MagvitHalf):
    def __init__(self, ch: int, mult: list[int], blocks: int, z: int, adaptive: bool) -> None:
        super().__init__()
        width = ch * mult[-1]
        self.conv_in = nn.Conv2d(z, width, 3, padding=1)
        self.mid_block = nn.ModuleList(MagvitBlock(width, width) for _ in range(blocks))
        ups: list[nn.Module] = []
        norms: list[nn.Module] = []
        for at in reversed(range(len(mult))):
            norms.insert(0, MagvitAdaptive(z, width))
            parts = [MagvitBlock(width if n == 0 else ch * mult[at], ch * mult[at]) for n in range(blocks)]
            width = ch * mult[at]
            ups.insert(0, self.level(parts, "upsample", MagvitUp(width) if at else None))
        self.up = nn.ModuleList(ups)
        if adaptive:
            self.adaptive = nn.ModuleList(norms)
        self.norm_out, self.conv_out = nn.GroupNorm(32, width, 1e-6), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for block in self.mid_block:
            x = block(x)
        for at in reversed(range(len(self.up))):
            level = self.up[at]
            x = self.adaptive[at](x, z) if hasattr(self, "adaptive") else x
            for block in level.block:
                x = block(x)
            x = level.upsample(x) if hasattr(level, "upsample") else x
        return self.conv_out(F.silu(self.norm_out(x)))


def magvit(blocks: int, z: int, adaptive: bool) -> tuple[nn.Module, dict[str, Any]]:
    """A trunk with weights far enough from zero that every layer counts, and its `ddconfig`."""
    mult, model = [1, 1, 2], nn.Module()
    torch.manual_seed(3)
    model.encoder, model.decoder = (
        MagvitEncoder(32, mult, blocks, z),
        MagvitDecoder(32, mult, blocks, z, adaptive),
    )
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.add_(0.2 * draw(*tensor.shape, seed=len(name)) if tensor.ndim == 1 else 0)
            if name.endswith("gamma.bias"):
                tensor.add_(1)  # no channel that is next to constant, whose norm would magnify roundings
    dd = {
        "double_z": False, "z_channels": z, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": mult,
        "num_res_blocks": blocks,
    }  # fmt: skip
    return model.eval(), dd


@torch.no_grad()
def open_magvit2(
    class_path: str = "src.Open_MAGVIT2.models.lfqgan.VQModel", adaptive: bool = True, stored: bool = False
) -> Case:
    """The first channel is the lowest bit; with no adaptive norms, the project's first release, the highest."""
    bits = 5
    model, dd = magvit(3, bits, adaptive)
    model.encoder.conv_out.bias.sub_(model.encoder(images()).mean((0, 2, 3)))
    latent = model.encoder(images())
    powers = 2 ** (torch.arange(bits) if adaptive else torch.arange(bits - 1, -1, -1))
    indices = ((latent > 0) * powers[:, None, None]).sum(1)
    image = model.decoder(torch.where(latent > 0, 1.0, -1.0))
    raw = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    config = {
        "model": {
            "class_path": class_path,
            "init_args": {
                "ddconfig": dd, "lossconfig": {"target": "some.Loss"}, "n_embed": 2**bits, "embed_dim": bits,
                "learning_rate": 1e-4, "sample_minimization_weight": 1.0, "batch_maximization_weight": 1.0,
                "scheduler_type": "None", "use_ema": True, "resume_lr": None, "lr_drop_epoch": [200, 250],
            },
        },
    }  # fmt: skip
    copies = {"model_ema." + key.replace(".", ""): tensor for key, tensor in raw.items()}
    other = {key: tensor * 0.5 for key, tensor in raw.items()}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}
    mask = {"quantize.mask": powers} if stored else {}
    state = {**other, **copies, **counters, **mask, "loss.discriminator.x": torch.ones(1)}
    return Case(config, lightning(state), images(), indices[:, None], image, "lfq")


def open_magvit2_with_its_mask() -> Case:
    return open_magvit2(stored=True)


def open_magvit2_first_release() -> Case:
    return open_magvit2("taming.models.lfqgan.VQModel", adaptive=False)


def open_magvit2_second_release() -> Case:
    return open_magvit2("taming.models.lfqgan.VQModel")


@torch.no_grad()
def simvq(blocks: int = 1) -> Case:
    z = 8
    model, dd = magvit(blocks, z, False)
    raw = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    colour, mean = spread(model.encoder(images()).movedim(1, -1).flatten(0, -2))
    raw |= {
        ROWS: draw(CODES, z), "quantize.embedding_proj.weight": colour, "quantize.embedding_proj.bias": mean,
    }  # fmt: skip
    codes = raw[ROWS] @ raw["quantize.embedding_proj.weight"].T + raw["quantize.embedding_proj.bias"]
    indices = by_distance(model.encoder(images()), codes)
    image = model.decoder(codes[indices].movedim(-1, 1))
    copies = {"model_ema." + key.replace(".", ""): tensor for key, tensor in raw.items() if key != ROWS}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}
    other = {key: tensor if key == ROWS else tensor * 0.5 for key, tensor in raw.items()}
    quant = {"n_e": CODES, "e_dim": z, "beta": 0.25, "legacy": False, "unknown_index": "random"}
    config = {
        "model": {
            "class_path": "taming.models.vq.VQModel",
            "init_args": {
                "ddconfig": dd, "lossconfig": {"target": "some.Loss"}, "learning_rate": 1e-4, "scheduler_type": "None",
                "quantconfig": {"target": "taming.modules.vqvae.quantize.SimVQ", "params": quant}, "use_ema": True,
            },
        },
    }  # fmt: skip
    return Case(
        config, lightning({**other, **copies, **counters}), images(), indices[:, None], image, "sim_vq"
    )


def graph(vectors: Tensor, edges: list[tuple[int, int]], weight: Tensor, bias: Tensor) -> Tensor:
    """A graph convolution with the dense matrix D^-1/2 (A + I) D^-1/2; a pair that is there twice counts twice."""
    adjacency = torch.eye(len(vectors))
    for a, b in edges:
        adjacency[a, b] += 1
        adjacency[b, a] += 1
    degree = adjacency.sum(1).rsqrt()
    return (degree[:, None] * adjacency * degree) @ (vectors @ weight.T) + bias


def vqct(topk: int = 2) -> Case:
    config = make_config()
    config["model"]["target"] = "taming.models.vqct.VQModel"
    half, width = 3, 12
    state = make_state(config)  # embed_dim 6 is the latent's
    del state[ROWS]
    config["model"]["params"] |= {"embed_dim": half, "topk": topk}
    layers = {"conv1": (half, width), "conv2": (half, half)}
    for at, (name, shape) in enumerate(layers.items()):
        state[f"quantize.gcn.{name}.lin.weight"] = draw(*shape, seed=20 + at)
        state[f"quantize.gcn.{name}.bias"] = draw(half, seed=30 + at)
    state["quantize.code_book_mapping.0.weight"] = torch.ones(2, 2)
    adjectives, nouns = ["red", "light", "small", "odd"], ["bird", "light", "beak", "rare", "wing"]
    pairs = [
        ("red", "bird"),
        ("light", "beak"),
        ("small", "light"),
        ("red", "bird"),
        ("odd", "wing"),
        ("red", "rare"),
    ]
    words = {
        "adjectives": np.array(["small", "red", "light", "odd"]), "nouns": np.array(["beak", "light", "bird", "wing"]),
        "adjective_vectors": draw(4, width, seed=40).half().numpy(),
        "noun_vectors": draw(4, width, seed=41).half().numpy(), "pairs": np.array(pairs),
        "adjective_counts_words": np.array(adjectives), "adjective_counts": np.array([50, 30, 11, 12]),
        "noun_counts_words": np.array(nouns), "noun_counts": np.array([50, 30, 20, 10, 11]),
    }  # fmt: skip
    # Codes in the order of the counts without `rare`; "light" in a pair is the noun.
    kept = [w for w in nouns if w != "rare"]
    place = {word: at for at, word in enumerate(adjectives + kept)}
    place["light"] = len(adjectives) + 1
    vectors = torch.stack(
        [torch.tensor(words["adjective_vectors"][words["adjectives"].tolist().index(w)]) for w in adjectives]
        + [torch.tensor(words["noun_vectors"][words["nouns"].tolist().index(w)]) for w in kept]
    ).float()
    edges = [(place[a], place[b]) for a, b in pairs if b != "rare"]
    first = graph(
        vectors, edges, *(state[f"quantize.gcn.conv1.{part}"] for part in ("lin.weight", "bias"))
    ).relu()
    codes = graph(first, edges, *(state[f"quantize.gcn.conv2.{part}"] for part in ("lin.weight", "bias")))
    words |= {"codes_adjectives": codes[:4].numpy(), "codes_nouns": codes[4:].numpy()}
    fit(state, config, codes[:4], codes[4:])
    reference = Reference(state, config)
    latent = reference.latent(images())
    distances = (rows_of(latent[:, :half])[..., None, :] - codes[:4].double()).square().sum(-1)
    near = distances.topk(topk, largest=False).indices
    noun = by_distance(latent[:, half:], codes[4:])
    z = torch.cat([codes[:4][near].mean(-2), codes[4:][noun]], dim=-1).movedim(-1, 1)
    indices = torch.cat([near, noun[..., None]], dim=-1).movedim(-1, 1)
    return Case(config, lightning(state), images(), indices, reference.decoded(z), "vqct", words)


def vqct_with_one_adjective() -> Case:
    return vqct(topk=1)


CASES: dict[str, Callable[[], Case]] = {
    made.__name__: made
    for made in (
        cvq, cvq_by_default, cvq_without_its_usage, cvq_in_another_class, cvq_by_name, cvq_by_distance, lg_vq, lg_cvq,
        latent_diffusion, latent_diffusion_without_attention, seed_voken_vq, ibq, gumbel, vqgan_lc,
        vqgan_lc_of_another_dimension, vqgan_lc_in_latent_diffusion, vqgan_lc_without_a_layer, vqgan_lc_ema, llamagen,
        llamagen_averaged, open_magvit2, open_magvit2_with_its_mask, open_magvit2_first_release,
        open_magvit2_second_release, simvq, vqct, vqct_with_one_adjective, vqct_cvq,
    )
}  # fmt: skip
