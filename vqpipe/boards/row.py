"""One row of a board: a tokenizer trained and measured, and tasks solved from it; only numbers are kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqpipe.alignment.text_sides import ClipSide
from vqpipe.artifacts.checkpoints import is_intact
from vqpipe.artifacts.publish import publish_sealed
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.evaluation.evaluate import SplitImages
from vqpipe.evaluation.measure import EvaluateParams, EvaluationMetrics, evaluate
from vqpipe.evaluation.probe import ProbeMetrics, ProbeParams, check_cells, linear_probe
from vqpipe.evaluation.reconstructions import MetricNetworks
from vqpipe.evaluation.speed import SpeedMetrics, measure_speed
from vqpipe.metrics.codes import UsageMetrics
from vqpipe.runtime.memory import PeakMemory
from vqpipe.tasks.caption_tasks import CaptionTaskParams
from vqpipe.tasks.solve import solve_tasks
from vqpipe.tasks.task import TaskMetrics, TaskParams
from vqpipe.tokenizers.captions import check_max_tokens
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams
from vqpipe.tokenizers.train import TokenizerMetrics, train_tokenizer
from vqpipe.training.objective import TrainingResult
from vqpipe.vision.clip import Clip

SPENT = "spent.json"
SPEED_IMAGES, SPEED_REPEATS = 16, 9
"""Images of a batch, and the passes of which the median is taken, for the time of encoding and decoding."""


@dataclass(frozen=True)
class Row:
    """`metrics`: flat JSON content, the same bytes in every run. `cost`: flat, measured, never the same twice.
    `tokenizer`: what was trained, in eval mode."""

    metrics: dict[str, Any]
    cost: dict[str, Any]
    tokenizer: Tokenizer


@dataclass(frozen=True)
class TrainingSpent:
    """What the training took in the process that took its last steps; kept for one that is killed after them."""

    num_steps: int
    cpu_seconds: float
    seconds: float
    peak_memory_bytes: int
    """Of the whole process."""
    training_memory_bytes: int | None
    """Of the training, over what was in use before it: weights, averages and moments, images and captions, activations.
    None where the system does not report it."""


def train_row(
    config: TokenizerParams,
    evaluation: EvaluateParams,
    codebook: PretrainedCodebook,
    dataset: Path,
    clip: Clip,
    *,
    scratch: Path,
    device: torch.device,
    title: str,
    probe: ProbeParams | None = None,
    tasks: Mapping[str, TaskParams] | None = None,
) -> Row:
    """Train a tokenizer on the training split and measure it on the test split.

    Args:
        codebook: what the quantizer is built on, or None.
        dataset: the dataset artifact.
        scratch: folder of the checkpoints: a row that was killed resumes from them.
        title: names the row on the progress bar.
        probe: the linear probe that is fitted on the frozen codes after that; None for none.
        tasks: what is solved from the frozen codes, by kind.

    Returns:
        Metrics: `psnr`, `ssim`, `l1`, `l2` and the perceptual distance with `_low` and `_high` (95 %
        bootstrap over images), the distances between sets, `utilisation` and `perplexity_share` over all groups,
        every group's numbers as `codes.GROUP.NAME`, the mean PSNR of replaced tokens as `replaced.psnr_RANK` where it
        is asked for, `linear_probe` with its interval, its `_chance` and the length of its features, those of tasks as
        `task.KIND.HEAD.NAME`. Cost: processor and wall seconds of a training step, memory as in `TrainingSpent`,
        parameters by part; processor seconds and memory of encoding and decoding (`SpeedMetrics`); processor seconds
        of measuring, and of tasks in this process. A cost is None where no step was taken in this process.

    Raises:
        MismatchError: a codebook that does not fit the quantizer, captions longer than the text encoder takes, or more
            cells of the probe than tokens.
        DataError: images without a caption, which `align` and the tasks on captions need; a sentence model that cannot
            be used.
        SetupError: a sentence model whose package is not installed.
        TrainingError: training that does not come back from non-finite losses.
    """
    for task in (tasks or {}).values():
        if isinstance(task, CaptionTaskParams):
            check_max_tokens(task.head.max_tokens, ClipSide(clip))
    if probe is not None:
        check_cells(probe.cells, config.resolution // config.trunk.downsampling)
    memory = PeakMemory(device)
    spent: list[TrainingSpent] = []

    def note(result: TrainingResult) -> None:
        took = result.cost
        kept = _kept_spent(scratch / SPENT) if took.num_steps == 0 else None  # killed while it was measured
        spent.append(kept or TrainingSpent(took.num_steps, took.cpu_seconds, took.seconds, *memory.read()))
        publish_sealed(scratch / SPENT, asdict(spent[0]))

    done = train_tokenizer(
        config, codebook, dataset, clip,
        scratch=scratch, curves=scratch / "curves.csv", device=device, title=title, on_trained=note,
    )  # fmt: skip
    tokenizer, trained = done.tokenizer, done.metrics
    begun = time.process_time()
    test = ImageSplit.open(dataset, "test", config.resolution)
    networks = MetricNetworks.load(evaluation.distances, evaluation.perceptual, clip, device)
    images = SplitImages.draw(test, evaluation.num_images, evaluation.seed)
    found = evaluate(tokenizer, images, evaluation, networks)
    assert found is not None, "one process"
    measured = found.metrics
    seconds = {"evaluate_cpu_seconds": round(time.process_time() - begun, 3)}
    speed = measure_speed(tokenizer, _batch(test, device), SPEED_REPEATS)
    probed = _flat_probe(linear_probe(tokenizer, dataset, probe)) if probe is not None else {}
    solved: dict[str, Any] = {}
    if tasks:
        begun = time.process_time()
        solved = flat_tasks(
            solve_tasks(
                tasks, tokenizer, done.aligner, dataset, clip, scratch=scratch, device=device, title=title
            )
        )
        seconds["task_cpu_seconds"] = round(time.process_time() - begun, 3)
    return Row(
        {**_flat_training(trained), **flat_evaluation(measured), **probed, **solved},
        _cost(trained.parameters.plain(), spent[0], {**seconds, **_flat_speed(speed)}, device),
        tokenizer,
    )


def _batch(images: ImageSplit, device: torch.device) -> Tensor:
    """The images that speed is measured on, in [-1, 1]."""
    return to_float(
        images.gather(np.arange(min(len(images), SPEED_IMAGES)), None, "centre", False).to(device)
    )


def _flat_speed(speed: SpeedMetrics) -> dict[str, Any]:
    return {
        "speed_images": speed.batch_size, "encode_seconds_per_image": speed.encode_seconds,
        "decode_seconds_per_image": speed.decode_seconds, "encode_cpu_seconds_per_image": speed.encode_cpu_seconds,
        "decode_cpu_seconds_per_image": speed.decode_cpu_seconds, "inference_memory_bytes": speed.peak_memory_bytes,
    }  # fmt: skip


def _flat_probe(found: ProbeMetrics) -> dict[str, Any]:
    return {
        "linear_probe": found.accuracy.mean, "linear_probe_low": found.accuracy.low,
        "linear_probe_high": found.accuracy.high, "linear_probe_chance": found.chance,
        "linear_probe_dim": found.dim, "linear_probe_classes": found.num_classes,
    }  # fmt: skip


def _kept_spent(path: Path) -> TrainingSpent | None:
    """What an earlier process wrote; None where it wrote nothing, or where that is damaged."""
    if not path.is_file() or not is_intact(
        lambda: read_sealed_json(path), "what the training of this row cost is not known"
    ):
        return None
    return TrainingSpent(**read_sealed_json(path))


def _flat_training(trained: TokenizerMetrics) -> dict[str, Any]:
    return {
        "num_steps": trained.num_steps, "num_rollbacks": trained.num_rollbacks, "weights": trained.weights,
        "collapse_step": trained.codes.collapse_step, "validation_psnr": trained.validation.psnr,
    }  # fmt: skip


def flat_evaluation(metrics: EvaluationMetrics) -> dict[str, Any]:
    """An evaluation's metrics on one level, without floors and ceiling; intervals as `NAME_low` and `NAME_high`.

    The record of what was measured (`metrics.measured`) has dotted names.
    """
    measured = metrics.plain()
    parts = ("floors", "ceiling", "codes", "protocol", "replaced", "measured")
    own = flat({name: value for name, value in measured.items() if name not in parts}, "")
    own = {name.removeprefix("."): value for name, value in own.items()}
    for name, value in measured.get("replaced", {}).items():
        own[f"replaced.{name}"] = value["mean"] if isinstance(value, Mapping) else value
    kept = ("split", "num_images", "resolution", "grid", "perceptual", "features", "distance_images")
    own |= {name: measured["protocol"][name] for name in kept if name in measured["protocol"]}
    own |= flat(measured["measured"], "measured")
    own |= code_use(metrics.codes)
    for group, numbers in measured["codes"].items():
        own |= {f"codes.{group}.{name}": value for name, value in numbers.items()}
    return own


def code_use(codes: Mapping[str, UsageMetrics]) -> dict[str, Any]:
    """Use of the codes over all groups.

    Returns:
        `num_codes` such as `55 x 77`; `utilisation`: codes used at least once over all codes; `perplexity_share`: the
        geometric mean over groups of perplexity / K; `entropy_bits`: of one position, groups taken as independent.
    """
    counts = [group.num_codes for group in codes.values()]
    used = sum(round(group.utilisation * group.num_codes) for group in codes.values())
    entropies = [group.entropy_bits for group in codes.values()]
    below = [entropy - math.log2(count) for entropy, count in zip(entropies, counts, strict=True)]
    return {
        "num_codes": " x ".join(map(str, counts)), "utilisation": used / sum(counts),
        "perplexity_share": 2.0 ** (sum(below) / len(below)), "entropy_bits": sum(entropies),
    }  # fmt: skip


def _cost(
    parameters: Mapping[str, int], spent: TrainingSpent, measuring: Mapping[str, float], device: torch.device
) -> dict[str, Any]:
    steps = spent.num_steps
    return {
        "device": device.type, "threads": torch.get_num_threads(), "num_steps": steps,
        "cpu_seconds_per_step": round(spent.cpu_seconds / steps, 6) if steps else None,
        "seconds_per_step": round(spent.seconds / steps, 6) if steps else None,
        **measuring, "peak_memory_bytes": spent.peak_memory_bytes,
        "training_memory_bytes": spent.training_memory_bytes if steps else None,
        **{f"parameters.{part}": count for part, count in parameters.items()},
    }  # fmt: skip


INTERVAL = {"mean", "low", "high"}


def flat_tasks(found: Mapping[str, TaskMetrics[Any]]) -> dict[str, Any]:
    """The metrics of tasks by kind on one level: `task.KIND.fresh.NAME`, `task.KIND.own.NAME` and so on."""
    tasks = {
        kind: {k: v for k, v in metrics.plain().items() if k != "kind"} for kind, metrics in found.items()
    }
    return flat(tasks, "task")


def flat(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Nested metrics with dotted names; of an interval the mean, and its bounds as `NAME_low` and `NAME_high`."""
    out: dict[str, Any] = {}
    for name, value in content.items():
        full = f"{prefix}.{name}"
        if not isinstance(value, Mapping):
            out[full] = value
        elif set(value) == INTERVAL:
            out |= {full: value["mean"], f"{full}_low": value["low"], f"{full}_high": value["high"]}
        else:
            out |= flat(value, full)
    return out
