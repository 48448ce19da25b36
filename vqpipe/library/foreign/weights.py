"""From a foreign state dict to a tokenizer's tensors: which set of weights, every key accounted for, shapes, values.

Averaged weights: trainers with `LitEma` keep a copy of every trained parameter under `model_ema.` and the parameter's
name without dots; LlamaGen keeps a second state dict under `ema`. Projects whose evaluation uses the averaged set where
there is one are read so; for others the caller must choose. Parameters that are never trained have no copy and are
taken from the raw set.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vqpipe.errors import MismatchError
from vqpipe.library.choices import Weights
from vqpipe.library.foreign.config import ForeignConfig, some
from vqpipe.library.foreign.contract import Plan, Source
from vqpipe.library.foreign.read import Checkpoint

AVERAGE = "model_ema."
"""Beginning of the names of averaged copies."""
AVERAGING = (f"{AVERAGE}decay", f"{AVERAGE}num_updates")
"""Entries of averaged weights that are not weights."""
STATISTICS = ("quantize.embedding.cluster_size", "quantize.embedding.embed_avg", "quantize.cluster_size",
              "quantize.embed_avg", "quantize.ema_w")  # fmt: skip
"""Running averages that only training reads."""


def copy_name(key: str) -> str:
    """The name of a parameter's averaged copy."""
    return AVERAGE + key.replace(".", "")


def choose(
    checkpoint: Checkpoint, config: ForeignConfig, wanted: Weights | None, where: str
) -> tuple[Weights, Mapping[str, Tensor]]:
    """Which set of weights is read, and the averaged one by the raw names (empty where there is none).

    Raises:
        MismatchError: two sets and no rule; a set that is asked for and is not there; or a config that says otherwise
            than the file.
    """
    copies = {
        key: checkpoint.state[copy_name(key)]
        for key in checkpoint.state
        if copy_name(key) in checkpoint.state
    }
    averaged = {**checkpoint.averaged, **copies}
    stated = getattr(config.params, "use_ema", None)
    rule = config.family.averaged
    if wanted == "averaged" and not averaged:
        raise MismatchError(
            f"{where} has no averaged weights", found="--weights averaged", expected="--weights raw"
        )
    if wanted is not None:
        return wanted, averaged
    loose = sorted(key for key in checkpoint.state if key.startswith(AVERAGE) and key not in AVERAGING)
    if (averaged or loose) and (not rule or stated is False):
        raise MismatchError(
            f"{where} has averaged weights and raw ones, and its config's class has only one set: it is of another "
            "class, or it is not known which of the two its published numbers are of",
            found=some(loose or [f"ema.{key}" for key in averaged]), expected="--weights raw or --weights averaged",
        )  # fmt: skip
    if rule and stated and not averaged:
        raise MismatchError(
            f"{where} has no averaged weights, which its config's use_ema promises and the project's evaluation uses",
            found="use_ema: true", expected="--weights raw, where you know which weights these are",
        )  # fmt: skip
    return ("averaged" if averaged else "raw"), averaged


def take(
    state: Mapping[str, Tensor], plan: Plan, averaged: Mapping[str, Tensor], weights: Weights, where: str
) -> Mapping[str, Tensor]:
    """The chosen set, by the raw names.

    Raises:
        MismatchError: averaged weights lack a copy of a trained parameter.
    """
    if weights == "raw":
        return state
    keys = [key for source in plan.sources.values() for key in source.keys] + list(plan.used)
    lacking = sorted(key for key in keys if key not in averaged and key not in plan.frozen and key in state)
    if lacking:
        raise MismatchError(
            f"{where}: averaged weights lack parameters", found=some(lacking),
            expected="a copy of each, or --weights raw",
        )  # fmt: skip
    return {**state, **averaged}


def check_keys(state: Mapping[str, Tensor], plan: Plan, config: ForeignConfig, where: str) -> None:
    """Raise `MismatchError` where a state dict lacks keys or has unknown ones; both are named."""
    needed = {key for source in plan.sources.values() for key in source.keys} | set(plan.used)
    missing = sorted(needed - set(state))
    title, skipped = config.family.title, config.family.left_out
    if missing:
        raise MismatchError(
            f"{where} lacks {len(missing)} of the {len(needed)} keys that its config asks for",
            found=f"no {some(missing)}", expected=f"the {title} layout, with the config of this checkpoint",
        )  # fmt: skip

    def known(key: str) -> bool:
        if key in STATISTICS or key in AVERAGING or key.startswith(plan.unused):
            return True
        if key.startswith(AVERAGE):
            return key in copies or key.removeprefix(AVERAGE).startswith(skipped)
        return key.split(".")[0] in skipped

    copies = {copy_name(key) for key in state}
    if extra := sorted(key for key in set(state) - needed if not known(key)):
        raise MismatchError(
            f"{where} has {len(extra)} keys that its config does not ask for",
            found=some(extra), expected="the config of this checkpoint: ch_mult, num_res_blocks and "
            f"attn_resolutions decide which keys there are; apart from these only {', '.join(skipped)}",
        )  # fmt: skip


def convert(
    state: Mapping[str, Tensor], plan: Plan, shapes: Mapping[str, tuple[int, ...]], where: str
) -> dict[str, Tensor]:
    """Our tensors, float32, from theirs.

    Args:
        state: with every key of the plan.
        plan: names and how.
        shapes: of our tensors where the plan does not say.
        where: the file's name for messages.

    Raises:
        MismatchError: other shapes, or values that are not finite.
    """
    wrong: list[str] = []
    for name, source in plan.sources.items():
        expected = _expected(source, source.shape or shapes[name])
        wrong += [
            f"{key} {tuple(state[key].shape)}, not {expected}"
            for key in source.keys
            if state[key].shape != expected
        ]
    if wrong:
        raise MismatchError(
            f"{where} has {len(wrong)} tensors of other shapes than its config says", found=some(wrong, "; "),
            expected="the config of this checkpoint: ch, ch_mult, z_channels, embed_dim and n_embed",
        )  # fmt: skip
    made = {
        name: _made([state[key].float() for key in source.keys], source, source.shape or shapes[name])
        for name, source in plan.sources.items()
    }
    broken = [
        " + ".join(plan.sources[name].keys) for name, tensor in made.items() if not tensor.isfinite().all()
    ]
    if broken:
        raise MismatchError(f"{where} has values that are not finite", found=some(broken))
    return made


def _expected(source: Source, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of each of their tensors."""
    if source.how == "centre":
        return (*shape[:2], 1, 1)
    return (shape[0] // max(1, len(source.keys)), *shape[1:])


def _made(parts: list[Tensor], source: Source, shape: tuple[int, ...]) -> Tensor:
    if source.how == "zero":
        return torch.zeros(shape)
    if source.how == "centre":
        return torch.nn.functional.pad(parts[0], (1, 1, 1, 1))
    if source.how == "fold":
        return parts[0].reshape(2, 2, -1, *shape[1:]).movedim(2, 0).flatten(0, 2).contiguous()
    return torch.cat(parts)
