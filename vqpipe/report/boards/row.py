"""One row of the board: a tokenizer trained, measured and read in one go, of which only numbers are kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vqpipe.alignment.aligner import Aligner
from vqpipe.artifacts.checkpoints import is_sound
from vqpipe.artifacts.publish import publish_sealed
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.codebooks.load import Prior
from vqpipe.data.loader import ImageSplit
from vqpipe.engine.trainable import FitResult
from vqpipe.evaluation.evaluate import SplitImages
from vqpipe.evaluation.judges import Judges
from vqpipe.evaluation.measure import evaluate
from vqpipe.metrics.measured import MEASURED
from vqpipe.params.evaluate import EvaluateParams
from vqpipe.params.reading import ReadingParams
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.reading.read import read_heads
from vqpipe.runtime.memory import PeakMemory
from vqpipe.tokenizers.caption_text import check_max_tokens
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.train import train_tokenizer
from vqpipe.vision.clip import Clip

SPENT = "spent.json"


@dataclass(frozen=True)
class Row:
    """`metrics`: flat JSON content, the same bytes in every run. `cost`: flat, measured, never the same twice."""

    metrics: dict[str, Any]
    cost: dict[str, Any]


@dataclass(frozen=True)
class TrainingSpent:
    """What the training took in the process that took its last steps; kept for one that is killed after them."""

    num_steps: int
    cpu_seconds: float
    seconds: float
    peak_memory_bytes: int
    """Of the whole process."""
    training_memory_bytes: int | None
    """Of the training over what was held before it: weights, averages and moments, images and captions, activations.
    None where the system does not tell it."""


def train_row(
    config: TokenizerParams,
    evaluation: EvaluateParams,
    prior: Prior,
    dataset: Path,
    clip: Clip,
    *,
    scratch: Path,
    device: torch.device,
    title: str,
    reading: ReadingParams | None = None,
) -> Row:
    """Train a tokenizer on the training split and measure it on the test split.

    Args:
        prior: what the quantizer is built on, or None.
        dataset: the dataset artifact.
        scratch: folder of the checkpoints: a row that was killed goes on from it.
        title: names the row on the progress bar.
        reading: how the frozen codes are read after that, or None.

    Returns:
        Metrics: `psnr`, `ssim`, `l1`, `l2` and the perceptual distance with `_low` and `_high` beside them (95 %
        bootstrap over images), the distances between sets, `utilisation` and `perplexity_share` over all groups,
        every group's numbers as `codes.GROUP.NAME`, the mean PSNR of replaced tokens as `replaced.psnr_RANK` where it
        is asked for, what is read as `read.NAME` (`read_row`). Cost: processor and wall seconds of a training step,
        memory as in `TrainingSpent`, parameters by part; processor seconds of measuring, and of reading in this
        process. A cost is None where no step was taken in this process.

    Raises:
        MismatchError: a prior that does not fit the quantizer, or captions longer than the CLIP takes.
        DataError: images without a caption, which `align` and `reading` need.
        TrainingError: training that does not come back from non-finite losses.
    """
    check_reading(reading, clip)
    memory = PeakMemory(device)
    spent: list[TrainingSpent] = []

    def note(result: FitResult) -> None:
        took = result.spent
        kept = _kept_spent(scratch / SPENT) if took.num_steps == 0 else None  # killed while it was measured
        spent.append(kept or TrainingSpent(took.num_steps, took.cpu_seconds, took.seconds, *memory.read()))
        publish_sealed(scratch / SPENT, asdict(spent[0]))

    done = train_tokenizer(
        config, prior, dataset, clip,
        scratch=scratch, curves=scratch / "curves.csv", device=device, title=title, on_fit=note,
    )  # fmt: skip
    tokenizer, trained = done.tokenizer, done.metrics
    begun = time.process_time()
    test = ImageSplit.open(dataset, "test", config.resolution)
    judges = Judges.load(evaluation, clip, device)
    images = SplitImages.draw(test, evaluation.num_images, evaluation.seed)
    measured = evaluate(tokenizer, images, evaluation, judges).metrics
    seconds = {"evaluate_cpu_seconds": round(time.process_time() - begun, 3)}
    read: dict[str, Any] = {}
    if reading is not None:
        begun = time.process_time()
        read = read_row(
            tokenizer, done.aligner, dataset, clip, reading,
            scratch=scratch, device=device, title=f"read {title}",
        )  # fmt: skip
        seconds["read_cpu_seconds"] = round(time.process_time() - begun, 3)
    return Row(
        {**_flat_training(trained), **flat_evaluation(measured), **read},
        _cost(trained["parameters"], spent[0], seconds, device),
    )


def _kept_spent(path: Path) -> TrainingSpent | None:
    """What an earlier process wrote; None where it wrote nothing, or where that is damaged."""
    if not path.is_file() or not is_sound(
        lambda: read_sealed_json(path), "what the training of this row cost is not known"
    ):
        return None
    return TrainingSpent(**read_sealed_json(path))


def _flat_training(trained: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_steps": trained["num_steps"], "num_rollbacks": trained["num_rollbacks"], "weights": trained["weights"],
        "collapse_step": trained["codes"]["collapse_step"], "validation_psnr": trained["validation"]["psnr"],
    }  # fmt: skip


def flat_evaluation(measured: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation's metrics on one level, without floors and ceiling; intervals as `NAME_low` and `NAME_high`.

    The record of what was measured (`metrics.measured`) has dotted names.
    """
    flat: dict[str, Any] = {}
    for name, value in measured.items():
        if name in ("floors", "ceiling", "codes", "protocol", "replaced", MEASURED):
            continue
        if isinstance(value, Mapping):
            flat |= {name: value["mean"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
        else:
            flat[name] = value
    for name, value in measured.get("replaced", {}).items():
        flat[f"replaced.{name}"] = value["mean"] if isinstance(value, Mapping) else value
    kept = ("split", "num_images", "resolution", "grid", "perceptual", "features", "distance_images")
    flat |= {name: measured["protocol"][name] for name in kept if name in measured["protocol"]}
    flat |= flat_metrics(measured[MEASURED], MEASURED)
    codes = measured["codes"]
    flat |= code_use(codes)
    for group, numbers in codes.items():
        flat |= {f"codes.{group}.{name}": value for name, value in numbers.items()}
    return flat


def code_use(codes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Use of the codes over all groups.

    Returns:
        `num_codes` such as `55 x 77`; `utilisation`: codes used at least once over all codes; `perplexity_share`: the
        geometric mean over groups of perplexity / K; `entropy_bits`: of one position, groups taken as independent.
    """
    counts = [int(group["num_codes"]) for group in codes.values()]
    used = sum(round(group["utilisation"] * group["num_codes"]) for group in codes.values())
    entropies = [float(group["entropy_bits"]) for group in codes.values()]
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


# MERGED DOC (fold into the docstring, then delete): """What is read from a row's frozen codes, as flat numbers."""

INTERVAL = {"mean", "low", "high"}
PROTOCOL = ("num_images", "num_tokens", "num_positions")


def check_reading(config: ReadingParams | None, clip: Clip) -> None:
    """Refuse a reading that would fail when the row is already trained.

    Raises:
        MismatchError: captions longer than the CLIP takes.
    """
    if config is not None:
        check_max_tokens(config.align.max_tokens, clip)


def read_row(
    tokenizer: Tokenizer,
    own: Aligner | None,
    dataset: Path,
    clip: Clip,
    config: ReadingParams,
    *,
    scratch: Path,
    device: torch.device,
    title: str,
) -> dict[str, Any]:
    """Read a row's tokenizer as `read_heads`, and give its measures flat; errors as there.

    Returns:
        `read.fresh.NAME`, what fresh heads read that were trained on the frozen codes; `read.own.NAME`, what its own
        heads read, where the tokenizer was trained with any; `read.training.NAME`, how the fresh ones were trained;
        `read.num_images`, and the tokens of the vocabulary and positions of the grid. A mean is `NAME`, its 95 %
        bootstrap interval over images `NAME_low` and `NAME_high`.
    """
    folder = scratch / "reader"
    folder.mkdir(exist_ok=True)
    found = read_heads(
        tokenizer, own, dataset, clip, config, scratch=folder, curves=None, device=device, title=title
    ).metrics
    protocol = {f"read.{name}": found["protocol"][name] for name in PROTOCOL}
    return {**flat({name: part for name, part in found.items() if name != "protocol"}, "read"), **protocol}


def flat(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Nested metrics with dotted names; `{mean, low, high}` is one number with its interval beside it."""
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
