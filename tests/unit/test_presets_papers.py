"""The presets compared with what the papers and their public code state, each setting with its source."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from vqpipe.cli.presets import load_preset, preset_names
from vqpipe.params.base import merged, validate
from vqpipe.priors import PRIORS
from vqpipe.priors.contract import ImageSpace
from vqpipe.priors.gpt import GPT, GPTParams

Line = tuple[str, Any, str]
"""Where a value is in the preset, the value, and where it is stated. A variant's or a pair's own name follows
`tokenizer` or `prior`, and its values are those with `common` below them."""

CODE = "VQGAN's code"
LLAMAGEN = "LlamaGen's class-conditional training and its code"
TRUNK: list[Line] = [
    ("tokenizer.vq.trunk.channels", 128, CODE),
    ("tokenizer.vq.trunk.channel_multipliers", [1, 1, 2, 2, 4], CODE),
    ("tokenizer.vq.trunk.num_blocks", 2, CODE),
    ("tokenizer.vq.trunk.num_decoder_blocks", None, CODE + ": one more in the decoder"),
    ("tokenizer.vq.trunk.attention_levels", [4], CODE + ": at 16 x 16"),
    ("tokenizer.vq.trunk.latent_channels", 256, CODE),
    ("tokenizer.vq.latent_init", "standard", CODE),
    ("tokenizer.vq.losses.reconstruction", {"l1": 1.0, "l2": 0.0}, CODE),
    ("tokenizer.vq.losses.perceptual", {"kind": "lpips", "net": "vgg"}, CODE),
    ("tokenizer.vq.losses.perceptual_weight", 1.0, CODE),
    ("tokenizer.vq.losses.adversarial.max_adaptive_weight", 1e4, CODE),
    ("tokenizer.vq.losses.adversarial.discriminator.channels", 64, CODE),
    ("tokenizer.vq.losses.adversarial.discriminator.norm", "batch", CODE),
    ("tokenizer.vq.losses.adversarial.discriminator.lr_scale", 1.0, CODE + ": one rate for both"),
    ("tokenizer.vq.training.betas", [0.5, 0.9], CODE),
    ("tokenizer.vq.training.weight_decay", 0.0, CODE),
    ("tokenizer.vq.training.ema_decay", 0.0, CODE),
    ("tokenizer.vq.training.clip_grad_norm", 0.0, CODE),
]
GPT_CODE: list[Line] = [
    ("prior.vq-gpt.model.block", {"kind": "gpt2"}, CODE),
    ("prior.vq-gpt.model.learned_positions", True, CODE),
    ("prior.vq-gpt.model.rotary_base", None, CODE),
    ("prior.vq-gpt.model.prefix_attention", "causal", CODE + ": n_unmasked 0"),
    ("prior.vq-gpt.model.head_bias", False, CODE),
    ("prior.vq-gpt.model.dropout", dict.fromkeys(("embedding", "attention", "residual", "mlp"), 0.0), CODE),
]
VQGAN: list[Line] = [
    *TRUNK,
    (
        "tokenizer.vq.quantizer",
        {"kind": "vq", "num_codes": 1024, "dim": 256, "beta": 0.25, "beta_on": "codebook", "init": "uniform"},
        "LG-VQ sec. 4.1 (K); its code and VQGAN's (dimension, beta on the codebook's term, +-1/K)",
    ),
    ("tokenizer.vq.losses.adversarial.weight", 0.8, CODE + "; LG-VQ's"),
    ("tokenizer.vq.losses.adversarial.discriminator.num_layers", 3, CODE),
    ("tokenizer.vq.losses.quantizer_weight", 1.0, CODE + "; LG-VQ's"),
    ("tokenizer.vq.training.batch_size", 8, "LG-VQ sec. 4.1"),
    ("tokenizer.vq.training.learning_rate", 3.6e-5, CODE + ": 4.5e-6 an image"),
    ("tokenizer.vq.training.warmup_fraction", 0.0, CODE),
    ("tokenizer.vq.training.final_lr_fraction", 1.0, CODE + ": constant"),
    ("prior.vq-gpt.model.num_layers", 16, "LG-VQ app. A.1"),
    ("prior.vq-gpt.model.num_heads", 16, "LG-VQ app. A.1"),
    ("prior.vq-gpt.model.width", 1024, "LG-VQ app. A.1"),
    *GPT_CODE,
    ("prior.vq-gpt.training.batch_size", 36, "LG-VQ app. A.1"),
    ("prior.vq-gpt.training.betas", [0.9, 0.95], CODE),
    ("prior.vq-gpt.training.weight_decay", 0.01, CODE),
    ("prior.vq-gpt.sampling.temperature", 1.0, CODE),
]
UNCONDITIONAL: list[Line] = [
    ("prior.vq-gpt.condition", "none", "the papers' tables of unconditional generation"),
    ("prior.vq-gpt.sampling.top_k", 250, CODE),
    ("prior.vq-gpt.sampling.top_p", 1.0, CODE),
]
VQCT: list[Line] = [
    ("clip.pretrained", {"kind": "tag", "model": "ViT-B-32", "tag": "openai"}, "VQCT's code; LG-VQ sec. 4.1"),
    ("vocabulary.min_count", 11, "VQCT's code: more than 10"),
    ("tokenizer.vqct.quantizer.dim", 512, "VQCT's code: 256 for each of two codes"),
    ("tokenizer.vqct.quantizer.transfer.num_layers", 3, "VQCT sec. 3.3"),
    ("tokenizer.vqct.quantizer.transfer.final_relu", True, "VQCT sec. 3.3: ReLU after each"),
]
VQGAN_LC: list[Line] = [
    *TRUNK,
    ("clip.pretrained", {"kind": "tag", "model": "ViT-L-14", "tag": "openai"}, "VQGAN-LC sec. 4.1"),
    ("patches.projected", True, "VQGAN-LC's code"),
    ("patches.grid", 4, "VQGAN-LC's code: 16 x 16 pooled by 4"),
    ("cluster.num_clusters", 100_000, "VQGAN-LC sec. 4.1"),
    ("tokenizer.lc.quantizer.num_codes", 100_000, "VQGAN-LC sec. 4.1"),
    ("tokenizer.lc.quantizer.dim", 8, "VQGAN-LC sec. 4.1"),
    ("tokenizer.lc.quantizer.beta", 0.33, "VQGAN-LC eq. 1"),
    ("tokenizer.lc.quantizer.beta_on", "codebook", "VQGAN-LC eq. 1"),
    ("tokenizer.lc.quantizer.distance", "euclidean", "VQGAN-LC's code; sec. 3.2 says cosine"),
    ("tokenizer.vq.quantizer.num_codes", 16_384, "VQGAN-LC sec. 4.1"),
    ("tokenizer.vq.quantizer.dim", 256, "VQGAN's code at K 16,384"),
    ("tokenizer.vq.quantizer.beta", 0.33, "VQGAN-LC's code"),
    ("tokenizer.vq.quantizer.beta_on", "codebook", "VQGAN-LC's code"),
    ("tokenizer.fc.quantizer.num_codes", 16_384, "VQGAN-LC sec. 4.1"),
    ("tokenizer.fc.quantizer.dim", 8, "VQGAN-LC's code"),
    ("tokenizer.fc.quantizer.normalise", False, "VQGAN-LC's code"),
    ("tokenizer.fc.quantizer.beta", 0.33, "VQGAN-LC's code"),
    ("tokenizer.fc.quantizer.beta_on", "codebook", "VQGAN-LC's code"),
    ("tokenizer.fc.quantizer.init", "uniform", "VQGAN-LC's code"),
    ("tokenizer.ema.quantizer.num_codes", 16_384, "VQGAN-LC sec. 4.1"),
    ("tokenizer.ema.quantizer.beta", 1.0, "VQGAN-LC's code"),
    ("tokenizer.ema.quantizer.decay", 0.99, "VQGAN-LC's code"),
    ("tokenizer.ema.quantizer.epsilon", 1e-5, "VQGAN-LC's code"),
    ("tokenizer.ema.quantizer.init", "uniform", "VQGAN-LC's code"),
    ("tokenizer.ema.quantizer.restart", None, "VQGAN-LC's code"),
    ("tokenizer.ema.quantizer.initial_size", 0, "VQGAN-LC's code: cluster sizes start at 0"),
    ("tokenizer.lc.quantizer.init", "reference", "VQGAN-LC's code: projector N(0, 1/d)"),
    ("prior.lc-gpt.training.decay", "linear", "VQGAN-LC app. A"),
    ("tokenizer.lc.losses.quantizer_weight", 0.1, "VQGAN-LC's code"),
    ("tokenizer.lc.losses.adversarial.weight", 0.1, "VQGAN-LC's code"),
    ("tokenizer.lc.losses.adversarial.discriminator.num_layers", 2, "VQGAN-LC's code"),
    ("tokenizer.lc.training.batch_size", 256, "VQGAN-LC's code"),
    ("tokenizer.lc.training.learning_rate", 5e-4, "VQGAN-LC sec. 4.1"),
    ("tokenizer.lc.training.final_lr_fraction", 0.0, "VQGAN-LC sec. 4.1: half a cosine"),
    ("prior.lc-gpt.model.num_layers", 24, "VQGAN-LC sec. 4.1"),
    ("prior.lc-gpt.model.num_heads", 16, "VQGAN-LC sec. 4.1"),
    ("prior.lc-gpt.model.width", 1024, "VQGAN-LC sec. 4.1"),
    ("prior.lc-gpt.token_noise", 0.2, "VQGAN-LC's code: pkeep 0.8"),
    ("prior.lc-gpt.training.batch_size", 1024, "VQGAN-LC app. A"),
    ("prior.lc-gpt.training.learning_rate", 4.5e-4, "VQGAN-LC app. A"),
    ("prior.lc-gpt.training.warmup_fraction", 0.05, "VQGAN-LC app. A: 5 epochs of 100"),
    ("prior.lc-gpt.sampling.top_k", 10_000, "VQGAN-LC app. A: 10 %"),
    ("prior.fc-gpt.sampling.top_k", 1_638, "VQGAN-LC app. A: 10 %"),
    ("prior.ema-gpt.sampling.top_k", 1_638, "VQGAN-LC app. A: 10 %"),
]
PAPERS: dict[str, list[Line]] = {
    "paper-f16": [*VQGAN, *VQCT, *UNCONDITIONAL],
    "celeba-hq": [*VQGAN, *VQCT, *UNCONDITIONAL],
    "coco-256": [*VQGAN, *VQCT, *UNCONDITIONAL],
    "textcaps": [*VQGAN, *VQCT, *UNCONDITIONAL],
    "ade20k": [
        *VQGAN, *VQCT, *UNCONDITIONAL,
        ("evaluate.distances.features", "clip", "2,000 test images are fewer than Inception's 2,048 dimensions"),
        ("prior.vq-gpt.distances.features", "clip", "the same"),
    ],
    "cub-200": [
        *VQGAN, *VQCT,
        ("prior.vq-gpt.condition", "class", "VQGAN's code, class-conditional"),
        ("prior.vq-gpt.sampling.top_k", 600, "VQGAN's code, class-conditional"),
        ("prior.vq-gpt.sampling.top_p", 0.92, "VQGAN's code, class-conditional"),
    ],
    "vqct-paper": [
        *VQGAN, *VQCT,
        ("graph.min_count", 1, "VQCT sec. 3.3: every pair"),
        ("tokenizer.vqct-reference.quantizer.transfer", {
            "kind": "gcn", "num_layers": 2, "hidden_dim": 256, "final_relu": False, "dropout": 0.5,
            "edge_weights": "count",
        }, "VQCT's code"),
        ("tokenizer.vqct-reference.quantizer.topk_adjectives", 2, "VQCT's code"),
    ],
    "lg-vq": [
        *VQGAN, *VQCT, *UNCONDITIONAL,
        *((f"tokenizer.vq-vae.{where}", value, source) for where, value, source in (
            ("losses.reconstruction", {"l1": 0.0, "l2": 1.0}, "VQ-VAE eq. 3: squared error"),
            ("losses.perceptual", {"kind": "none"}, "VQ-VAE eq. 3"),
            ("losses.adversarial.weight", 0.0, "VQ-VAE eq. 3"),
            ("quantizer.num_codes", 1024, "LG-VQ sec. 4.1"),
            ("quantizer.beta", 0.25, "VQ-VAE sec. 3.2"),
            ("quantizer.beta_on", "commitment", "VQ-VAE eq. 3"),
        )),
        ("tokenizer.cvq.quantizer", {
            "kind": "cvq", "num_codes": 1024, "dim": 256, "beta": 0.25, "beta_on": "commitment", "init": "uniform",
            "anchor": "probrandom", "distance": "euclidean", "decay": 0.99,
            "contrastive": {"weight": 1.0, "temperature": 0.07},
        }, "LG-VQ's code (VQCT's is the same)"),
        ("tokenizer.vq+lg.align.global.weight", 0.001, "LG-VQ's code for TextCaps"),
        ("tokenizer.vq+lg.align.masked.weight", 0.01, "LG-VQ's code for TextCaps"),
        ("tokenizer.vq+lg.align.relationship.weight", 0.0001, "LG-VQ's code for TextCaps"),
        ("tokenizer.vq+lg.align.max_tokens", 30, "LG-VQ's code"),
        ("tokenizer.vq+lg.align.num_heads", 1, "LG-VQ's code"),
        ("tokenizer.vq+lg.align.global.temperature", {"kind": "fixed", "value": 1.0}, "LG-VQ eq. 5"),
    ],
    "imagenet": [
        *VQGAN_LC,
        ("cluster.per_class", True, "VQGAN-LC's code: 100 for each of 1,000 classes"),
        ("tokenizer.lc-f8.trunk.channel_multipliers", [1, 2, 2, 4], "VQGAN-LC's code, f8"),
        ("tokenizer.lc-f8.trunk.attention_levels", [], "VQGAN-LC's code, f8: at 16 x 16, which f8 does not reach"),
        ("tokenizer.lc-f8.quantizer.num_codes", 100_000, "VQGAN-LC table 2"),
        ("tokenizer.lc.training.num_steps", 20 * (int(1_281_167 * 0.99) // 256), "VQGAN-LC sec. 4.1: 20 epochs"),
        ("tokenizer.lc.training.warmup_fraction", 5 / 20, "VQGAN-LC sec. 4.1: 5 epochs"),
        ("prior.lc-gpt.condition", "class", "VQGAN-LC sec. 4.1"),
        ("prior.lc-gpt.training.num_steps", 100 * (int(1_281_167 * 0.99) // 1024), "VQGAN-LC app. A: 100 epochs"),
        ("prior.lc-gpt.num_samples", 50_000, "VQGAN-LC sec. 4.1"),
    ],
    "llamagen": [
        ("tokenizer.fc.quantizer.num_codes", 16_384, "LlamaGen's tokenizer"),
        ("tokenizer.fc.quantizer.dim", 8, "LlamaGen's tokenizer"),
        ("tokenizer.fc.quantizer.normalise", True, "LlamaGen's tokenizer"),
        ("prior.fc-gpt-b.condition", "class", LLAMAGEN),
        ("prior.fc-gpt-b.condition_drop", 0.1, LLAMAGEN),
        ("prior.fc-gpt-b.token_noise", 0.0, LLAMAGEN),
        ("prior.fc-gpt-b.model", {
            "num_layers": 12, "num_heads": 12, "width": 768, "block": {"kind": "llama", "multiple_of": 256},
            "learned_positions": False, "rotary_base": 10_000, "prefix_attention": "causal", "head_bias": False,
            "dropout": {"embedding": 0.1, "attention": 0.0, "residual": 0.1, "mlp": 0.1},
        }, "LlamaGen's table of models; its code"),
        *((f"prior.fc-gpt-l.model.{name}", value, "LlamaGen's table of models") for name, value in (
            ("num_layers", 24), ("num_heads", 16), ("width", 1024),
        )),
        *((f"prior.fc-gpt-l.training.{name}", value, LLAMAGEN) for name, value in (
            ("num_steps", 300 * (int(1_281_167 * 0.99) // 256)), ("batch_size", 256), ("learning_rate", 1e-4),
            ("betas", [0.9, 0.95]), ("weight_decay", 0.05), ("clip_grad_norm", 1.0), ("final_lr_fraction", 1.0),
        )),
        ("prior.fc-gpt-l.sampling.guidance", 2.0, "LlamaGen's tables: B and L"),
        ("prior.fc-gpt-l.sampling.top_k", None, "LlamaGen's tables"),
        ("prior.fc-gpt-l.sampling.top_p", 1.0, "LlamaGen's tables"),
    ],
    "ffhq": [
        *VQGAN_LC,
        ("cluster.per_class", False, "FFHQ has no classes"),
        ("tokenizer.lc.training.num_steps", 800 * (int(60_000 * 0.98) // 256), "VQGAN-LC sec. 4.1: 800 epochs"),
        ("tokenizer.lc.training.warmup_fraction", 5 / 800, "VQGAN-LC sec. 4.1: 5 epochs"),
        ("prior.lc-gpt.condition", "none", "VQGAN-LC sec. 4.1"),
    ],
}  # fmt: skip
VARIANTS = {
    "imagenet": {"vq", "fc", "ema", "lc", "lc-f8"},  # table 2
    "ffhq": {"vq", "fc", "ema", "lc"},  # table 3
}
"""The methods of VQGAN-LC's tables of reconstruction."""


@cache
def whole(preset: str) -> dict[str, Any]:
    """A preset's sections, the tokenizer's variants and the prior's pairs with their common params below them."""
    params = load_preset(preset)
    tokenizer, prior = params["tokenizer"], params["prior"]
    return params | {
        "tokenizer": {name: merged(tokenizer["common"], own) for name, own in tokenizer["variants"].items()},
        "prior": {
            name: PRIORS.entry("prior.pairs", prior["common"], own) for name, own in prior["pairs"].items()
        },
    }


def at(preset: str, where: str) -> Any:
    found: Any = whole(preset)
    for name in where.split("."):
        found = found[name]
    return found


@pytest.mark.parametrize(
    ("preset", "where", "stated", "source"),
    [pytest.param(preset, *line, id=f"{preset}-{line[0]}") for preset in PAPERS for line in PAPERS[preset]],
)
def test_a_preset_has_what_is_stated(preset: str, where: str, stated: Any, source: str) -> None:
    found = at(preset, where)
    assert found == stated, f"{preset}: {where} is {found}, and {source} has {stated}"


def test_every_preset_of_a_paper_is_compared() -> None:
    small = {"coco", "image-folder", "pairs", "pico", "scenes", "tiny-imagenet"}
    assert set(PAPERS) == set(preset_names()) - small


@pytest.mark.parametrize("preset", PAPERS)
def test_a_preset_of_a_paper_trains_with_adam_as_all_of_them_do(preset: str) -> None:
    configs = [*whole(preset)["tokenizer"].values(), *whole(preset)["prior"].values()]
    assert {config["training"].get("optimizer", "adamw") for config in configs} == {"adamw"}


@pytest.mark.parametrize("preset", VARIANTS)
def test_the_methods_are_those_of_the_papers_table(preset: str) -> None:
    assert set(whole(preset)["tokenizer"]) == VARIANTS[preset]


def test_ade20k_has_too_few_test_images_for_fid() -> None:
    assert at("ade20k", "prior.vq-gpt.num_samples") == 2000 < 2048
    assert at("celeba-hq", "evaluate.distances.features") == "inception"


def gpt(preset: str, pair: str) -> GPT:
    """A preset's GPT of 16 x 16 tokens and 1,000 classes, without memory for its weights."""
    found = at(preset, f"prior.{pair}")
    codes = at(preset, f"tokenizer.{found['tokenizer']}.quantizer.num_codes")
    config = validate(found, pair, GPTParams)
    with torch.device("meta"):
        return GPT(config, ImageSpace((codes,), (16, 16), tuple(map(str, range(1000)))))


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_llamagens_gpts_have_the_stated_sizes() -> None:
    """111 M and 343 M in its table of models."""
    assert {name: round(millions(gpt("llamagen", name))) for name in ("fc-gpt-b", "fc-gpt-l")} == {
        "fc-gpt-b": 111, "fc-gpt-l": 343,
    }  # fmt: skip


def test_vqgan_lcs_gpt_has_the_stated_size_with_one_table_of_codes() -> None:
    """404 M (VQGAN-LC, section 4.1) are its blocks and one table of 100,000 codes; ours has two, as VQGAN's code."""
    network = gpt("imagenet", "lc-gpt").network
    assert int(millions(network.shared) + millions(network.heads)) == 404
    assert round(millions(gpt("imagenet", "lc-gpt"))) == 508
    assert round(millions(gpt("imagenet", "fc-gpt"))) == 337


def test_lg_vqs_gpt_has_sixteen_layers_of_vqgans_width() -> None:
    """LG-VQ gives no number of parameters: 16 x 12 x 1024 squared in the blocks, but for biases and norms."""
    prior = gpt("lg-vq", "vq-gpt")
    assert millions(prior.network.shared) == pytest.approx(16 * 12 * 1.024**2, rel=0.01)
    assert millions(prior.network.heads) == pytest.approx(1.024**2, rel=1e-6)
    assert round(millions(prior)) == 204
