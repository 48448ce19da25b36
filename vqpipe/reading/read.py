"""The three tasks on captions from one params block, with their metrics in one mapping, for a board's row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vqpipe.alignment.aligner import Aligner
from vqpipe.metrics.measured import MEASURED, measured
from vqpipe.params.reading import ReadingParams
from vqpipe.tasks.solve import solve_tasks
from vqpipe.tasks.task import TaskMetrics, TaskParams, tasks_of
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import Clip


@dataclass(frozen=True)
class Reading:
    """The metrics of all tasks: `fresh`, `own`, `training`, `protocol`, `measured`."""

    metrics: dict[str, Any]


def read_heads(
    tokenizer: Tokenizer,
    own: Aligner | None,
    dataset: Path,
    clip: Clip,
    config: ReadingParams,
    *,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> Reading:
    """Solve masked words, retrieval and relations, as far as `config.align` has their losses; see `solve_task`.

    Relations are left out for a quantizer without code vectors. `curves` is not written.
    """
    configs = task_params(config)
    if not has_vectors(tokenizer):
        configs.pop("relations", None)
    found = solve_tasks(configs, tokenizer, own, dataset, clip, scratch=scratch, device=device, title=title)
    return Reading(_joined({kind: metrics.plain() for kind, metrics in found.items()}, found))


def task_params(config: ReadingParams) -> dict[str, TaskParams]:
    """The params of each task by its kind; a loss that is null or of weight 0 has no task."""
    align, losses = config.align.model_dump(mode="json"), config.align.losses()
    head = {name: align[name] for name in ("width", "num_layers", "num_heads", "max_tokens")}
    common: dict[str, Any] = {
        **config.model_dump(mode="json", exclude={"align", "masked_counts", "examples", "tokenizer"}),
        "num_pictures": config.examples.num_images,
    }
    if "masked" in losses:
        common["masked_words"] = {
            "head": head, "masked": align["masked"], "masked_counts": list(config.masked_counts),
            "num_predictions": config.examples.num_predictions,
        }  # fmt: skip
    if "global" in losses:
        common["retrieval"] = {
            "head": head, "contrastive": align["global"], "num_candidates": config.examples.num_candidates,
        }  # fmt: skip
    if {"masked", "relationship"} <= set(losses):
        common["relations"] = {
            "head": head, "masked": align["masked"], "relationship": align["relationship"],
        }  # fmt: skip
    return tasks_of(common, "the board's params", tokenizer=config.tokenizer)


def has_vectors(tokenizer: Tokenizer) -> bool:
    """Whether the quantizer gives code vectors."""
    with torch.no_grad():
        latent = torch.zeros(1, tokenizer.config.quantizer.dim, 1, 1, device=tokenizer.device)
        return bool(tokenizer.quantizer(latent, 1.0).vectors)  # type: ignore[operator]


def _joined(
    content: Mapping[str, Mapping[str, Any]], found: Mapping[str, TaskMetrics[Any]]
) -> dict[str, Any]:
    parts = list(content.values())
    joined: dict[str, Any] = {}
    for head in ("fresh", "own"):
        own = [part[head] for part in parts if head in part]
        if own:
            losses = dict.fromkeys(loss for part in own for loss in part["losses"].split(", "))
            numbers = {name: value for part in own for name, value in part.items() if name != "losses"}
            joined[head] = {**numbers, "heads": ", ".join(losses)}
    joined["training"] = {
        **parts[0]["training"], "loss": {kind: part["training"]["loss"] for kind, part in content.items()},
        "num_rollbacks": sum(part["training"]["num_rollbacks"] for part in parts),
    }  # fmt: skip
    joined["protocol"] = parts[0]["protocol"]
    protocols = {kind: metrics.measured["protocol"] for kind, metrics in found.items()}
    joined[MEASURED] = measured(parts[0]["measured"]["images"], protocols)
    return joined
