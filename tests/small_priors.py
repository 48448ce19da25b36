"""Small priors and code grids for the tests of the priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vqpipe.params.base import validate
from vqpipe.priors.contract import PARTS, Condition, ConditionKind, ImageSpace
from vqpipe.priors.gpt import GPT, GPTParams, GPTSampling
from vqpipe.priors.sampling import TokenSampling, guide
from vqpipe.runtime.seeds import seed_everything, torch_rng

GRID = (3, 4)
ONE, TWO = (11,), (7, 13)
PLAIN = GPTSampling(
    temperature=1.0, top_k=None, top_p=1.0, guidance=1.0, guided_positions=None, precision="fp32", batch=None
)
SIDE, TEXT, MAP_CLASSES = 24, (4, 8), ("sky", "sea", "sand")
LLAMA = {"kind": "llama", "multiple_of": 8}
NO_DROPOUT = {"embedding": 0.0, "attention": 0.0, "residual": 0.0, "mlp": 0.0}


def shared() -> dict[str, Any]:
    """The params that all priors have but `kind` and `sampling`."""
    return {
        "tokenizer": "vq", "seed": 0, "condition": "class", "condition_drop": 0.1,
        "training": {
            "num_steps": 4, "batch_size": 4, "learning_rate": 0.01, "betas": [0.9, 0.95],
            "weight_decay": 0.01,
            "warmup_fraction": 0.0, "final_lr_fraction": 1.0, "clip_grad_norm": 1.0,
            "ema_decay": 0.0, "precision": "fp32", "log_every": 2, "checkpoint_every": 2,
        },
        "num_samples": 16,
        "distances": {
            "features": "clip", "num_subsets": 2, "subset_images": 8, "num_neighbours": 3, "seed": 0,
        },
    }  # fmt: skip


def params(**changes: Any) -> GPTParams:
    """Changes of `model` are merged with the small one's values."""
    own = {"kind": "gpt", **GPT.example()}
    own["model"] = {**own["model"], "num_layers": 4, **changes.pop("model", {})}
    if changes.get("condition") == "text":
        own["text"] = {"encoder": "clip", "max_tokens": TEXT[0]}
    return validate({**shared(), **own, **changes}, "prior", GPTParams)


def space(num_codes: Sequence[int], num_classes: int = 3) -> ImageSpace:
    classes = tuple(f"class {at}" for at in range(num_classes))
    return ImageSpace(tuple(num_codes), GRID, classes, 0, (), SIDE, MAP_CLASSES, *TEXT)


def model(num_codes: Sequence[int], num_classes: int = 3, **changes: Any) -> GPT:
    """A small model whose logits are far from uniform, in eval mode."""
    seed_everything(0, "test")
    made = GPT(params(**changes), space(num_codes, num_classes))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def images(num_codes: Sequence[int], count: int = 5) -> Tensor:
    rng = torch_rng(1, "images")
    return torch.stack([torch.randint(k, (count, *GRID), generator=rng) for k in num_codes], dim=1)


def labels(count: int = 5) -> Tensor:
    return torch.arange(count) % 3


def given(condition: ConditionKind, count: int = 5) -> Condition:
    """A condition of each image; of text and map the first image has none, and later texts end early."""
    rng = torch_rng(2, "condition")
    text, ids = torch.randn(count, *TEXT, generator=rng), torch.randint(9, (count, TEXT[0]), generator=rng)
    ids[1:] = ids[1:].masked_fill(torch.arange(TEXT[0]) > torch.arange(1, count)[:, None], -1)
    label_map = torch.randint(-1, 3, (count, SIDE, SIDE), generator=rng)
    ids[:1], label_map[:1] = -1, -1
    text = text * (ids >= 0)[..., None]
    parts = {"labels": labels(count), "text": text, "text_ids": ids, "label_map": label_map}
    return Condition(**{name: parts[name] for name in PARTS[condition]})


def naive_probabilities(logits: Tensor, config: TokenSampling) -> Tensor:
    """`probabilities` by a stable sort of all codes, scattered back to their places."""
    scaled = logits.double() / config.temperature
    if config.top_k is None and config.top_p == 1:
        return scaled.softmax(-1)
    codes = logits.argsort(dim=-1, descending=True, stable=True)[:, : config.top_k]
    kept = scaled.gather(-1, codes).softmax(-1)
    if config.top_p < 1:
        before = kept.cumsum(-1) - kept
        kept = kept.masked_fill(before >= config.top_p, 0.0)
        kept = kept / kept.sum(-1, keepdim=True)
    return torch.zeros_like(scaled).scatter(-1, codes, kept)


def naive_draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """`draw`, code by code."""
    cumulative = probs.double().cumsum(-1)
    return (cumulative <= uniform.double()[:, None] * cumulative[:, -1:]).sum(-1)


@torch.no_grad()
def naive_sample(
    prior: GPT, condition: Condition, n: int, sampling: TokenSampling, generator: torch.Generator
) -> Tensor:
    """`GPT.sample` with neither cache nor passes: every step computes the logits of all positions anew."""
    uniform = torch.rand(n, prior.groups, prior.num_positions, generator=generator)
    known = torch.full(uniform.shape, -1) if condition.tokens is None else condition.tokens.flatten(2)
    tokens = known.clamp_min(0)
    for position in range(prior.num_positions):
        if known[0, 0, position] >= 0:
            continue
        conditional, unconditional = prior(tokens, condition), prior(tokens, Condition())
        for group in range(prior.groups):
            own, other = conditional[group][:, position], unconditional[group][:, position]
            last = getattr(sampling, "guided_positions", None)
            guided = sampling.guidance != 1 and (last is None or position < last)
            scores = guide(own, other, sampling.guidance) if guided else own
            tokens[:, group, position] = naive_draw(
                naive_probabilities(scores, sampling), uniform[:, group, position]
            )
    return tokens.view(n, prior.groups, *prior.grid)
