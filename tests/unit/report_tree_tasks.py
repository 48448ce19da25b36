"""Tasks in the synthetic artifacts folder: solved from a plain tokenizer and from its aligned variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report_tree import filled, write_metrics
from report_tree_health import png
from ruamel.yaml import YAML

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import publish_folder, publish_text
from vqpipe.artifacts.specs.task import (
    HEAD_WEIGHTS,
    MASKED_WORDS_PICTURES,
    RELATIONS_PICTURES,
    RETRIEVAL_PICTURES,
    TASK,
    TASK_PER_IMAGE,
)
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.metrics.measured import Interval
from vqpipe.tasks import TASKS
from vqpipe.tasks.masked_words import MaskedCountMetrics, MaskedWordsMetrics
from vqpipe.tasks.relations import WordRelationsMetrics
from vqpipe.tasks.retrieval import RetrievalMetrics
from vqpipe.tasks.task import HeadTrainingMetrics

NUM_IMAGES = 100
KINDS = ("masked_words", "retrieval", "relations")
HEAD = {"width": 16, "num_layers": 1, "num_heads": 1, "max_tokens": 24}
GLOBAL = {
    "weight": 1.0,
    "directions": "both",
    "temperature": {"kind": "fixed", "value": 0.1},
    "gather": False,
}
MASKED = {
    "weight": 1.0, "mean": 0.5, "std": 0.1, "low": 0.1, "high": 0.3, "num_layers": 1, "width": 16, "dropout": 0.1,
    "label_smoothing": 0.1,
}  # fmt: skip
RELATIONSHIP = {"weight": 1.0, "projection": "mlp"}
ALIGN: dict[str, Any] = {**HEAD, "global": GLOBAL, "masked": MASKED, "relationship": RELATIONSHIP}
COMMON: dict[str, Any] = {
    "training": None, "seed": 0, "num_images": NUM_IMAGES, "batch_size": 8, "num_bootstrap": 200, "num_pictures": 3,
    "masked_words": {"head": HEAD, "masked": MASKED, "masked_counts": [1, 3], "num_predictions": 2},
    "retrieval": {"head": HEAD, "contrastive": GLOBAL, "num_candidates": 2},
    "relations": {"head": HEAD, "masked": MASKED, "relationship": RELATIONSHIP},
}  # fmt: skip


def name_tasks(
    params: Path, tokenizers: Mapping[str, str], aligned: Mapping[str, str], kinds: Sequence[str] = KINDS
) -> None:
    """Put a pair `NAME-KIND` for each name (to its tokenizer) and kind into a params file, and aligned variants (name
    to the plain one's)."""
    yaml = YAML()
    tree = yaml.load(params.read_text())
    for name, plain in aligned.items():
        own = {**tree["tokenizer"]["variants"][plain], "align": ALIGN}
        tree["tokenizer"]["variants"][name] = own
    pairs = {
        f"{name}-{kind}": {"tokenizer": tokenizer, "kind": kind}
        for name, tokenizer in tokenizers.items()
        for kind in kinds
    }
    tree["task"] = {"common": COMMON, "pairs": pairs}
    with params.open("w") as stream:
        yaml.dump(tree, stream)


def values(gain: float) -> dict[str, np.ndarray]:
    """Each measure by name, image by image; a larger `gain` is better on every image, or equal."""
    rng, n = np.random.default_rng(0), NUM_IMAGES
    luck, hard = rng.random(n), rng.random(n) / 10
    found = {
        "masked_1.recall": (luck < 0.3 + gain).astype(float), "masked_1.other_image": (luck < 0.3).astype(float),
        "masked_3.recall": np.where(luck < 0.2 + gain, 2 / 3, 0.0), "masked_3.other_image": np.full(n, 1 / 3),
        "similarity.raw": 0.3 + hard - gain / 4, "similarity.projected": 0.2 + hard,
    }  # fmt: skip
    for way in ("image_to_text", "text_to_image"):
        for rank in (1, 5, 10):
            found[f"{way}.r{rank}"] = (luck < rank / 20 + gain / 2).astype(float)
    return found


def interval(found: np.ndarray) -> Interval:
    mean = float(found.mean())
    return Interval(mean=mean, low=mean - 0.05, high=mean + 0.05)


def metrics_of(kind: str, found: Mapping[str, np.ndarray], counts: Sequence[int] = (1, 3)) -> Metrics:
    """What one head of a task measured."""
    if kind == "masked_words":
        parts = {
            f"masked_{count}": MaskedCountMetrics(
                num_captions=NUM_IMAGES, num_left_out=2 if count == 3 else 0, commonest=0.17, chance=0.006,
                recall=interval(found[f"masked_{count}.recall"]),
                other_image=interval(found[f"masked_{count}.other_image"]),
            )
            for count in counts
        }  # fmt: skip
        return MaskedWordsMetrics.model_validate({"losses": "masked", "text": "clip", **parts})
    if kind == "retrieval":
        ways = {
            way: {
                "num_queries": NUM_IMAGES, "num_candidates": NUM_IMAGES,
                **{f"r{rank}": interval(found[f"{way}.r{rank}"]) for rank in (1, 5, 10)},
                **{f"chance_r{rank}": rank / NUM_IMAGES for rank in (1, 5, 10)},
            }
            for way in ("image_to_text", "text_to_image")
        }  # fmt: skip
        return RetrievalMetrics.model_validate({"losses": "global", "text": "clip", **ways})
    raw = found["similarity.raw"]
    similarity = {
        "num_captions": NUM_IMAGES, "num_left_out": 0, "constant": 0.05, "same_position": 0.25,
        "raw": {"mse": interval(raw), "chance": interval(raw + 0.1), "correlation": 0.31},
        "projected": {"mse": interval(found["similarity.projected"]), "chance": Interval(mean=0.3, low=0.2, high=0.4)},
    }  # fmt: skip
    return WordRelationsMetrics.model_validate(
        {"losses": "masked, relationship", "text": "clip", "similarity": similarity}
    )


MEASURES = {
    "masked_words": ("masked_1", "masked_3"),
    "retrieval": ("image_to_text", "text_to_image"),
    "relations": ("similarity",),
}
SPECS = {
    "masked_words": MASKED_WORDS_PICTURES,
    "retrieval": RETRIEVAL_PICTURES,
    "relations": RELATIONS_PICTURES,
}


def write_tasks(
    root: Path,
    name: str,
    gains: Mapping[str, float],
    words: Sequence[str],
    kinds: Sequence[str] = KINDS,
    counts: Sequence[int] = (1, 3),
    first: int = 0,
) -> None:
    """The pairs `NAME-KIND` of some kinds; arguments as in `write_task`."""
    for kind in kinds:
        write_task(root, name, kind, gains, words, counts, first)


def write_task(
    root: Path,
    name: str,
    kind: str,
    gains: Mapping[str, float],
    words: Sequence[str],
    counts: Sequence[int] = (1, 3),
    first: int = 0,
) -> None:
    """One pair: `gains` of its heads (fresh, own), `words` of every caption that is shown, numbers of masked words,
    and the number of the `first` image."""
    pair, found = f"{name}-{kind}", {head: values(gain) for head, gain in gains.items()}
    training = {
        "num_steps": 300, "weights": "ema", "loss": 4.125, "batch_size": 8, "tokenizer_steps": 300,
    }  # fmt: skip
    content = {
        "kind": kind,
        **{head: metrics_of(kind, own, counts) for head, own in found.items()},
        "training": filled(HeadTrainingMetrics, training),
        "protocol": {
            "split": "test", "num_images": NUM_IMAGES, "captions": "one of each image, drawn by seed",
            "num_tokens": 164, "num_positions": 64, "groups": 1,
        },
    }  # fmt: skip
    write_metrics(root, f"task/{pair}", filled(TASKS[kind].Metrics, content))
    publish_text(root / f"artifacts/curves/task/{pair}.csv", "step,main/loss\n10,5.5\n20,4.2\n")
    facts = {
        "kind": kind, "split": "test", "num_images": NUM_IMAGES, "grid": [8, 8], "heads": list(gains), "groups": 1,
    }  # fmt: skip
    measured = [
        measure
        for measure in values(0)
        if (part := measure.split(".")[0]) in MEASURES[kind]
        and not (part.startswith("masked") and int(part[-1]) not in counts)
    ]
    with publish_folder(root / "artifacts/task" / pair, TASK, facts) as folder:
        per_image = [
            {"head": head, "measure": measure, "image_id": f"t{i + first:03d}", "value": float(value)}
            for head, own in found.items()
            for measure in measured
            for i, value in enumerate(own[measure])
        ]
        write_tensors(folder / "head.safetensors", HEAD_WEIGHTS, {"weight": torch.zeros(1)})
        write_table(folder / "per_image.parquet", TASK_PER_IMAGE, to_table(TASK_PER_IMAGE, per_image))
        rows = [
            row
            for head, gain in gains.items()
            for image in range(3)
            for row in pictures(kind, head, gain, image, words, counts)
        ]
        write_table(folder / "pictures.parquet", SPECS[kind], to_table(SPECS[kind], rows))


def pictures(
    kind: str, head: str, gain: float, image: int, words: Sequence[str], counts: Sequence[int]
) -> list[dict[str, Any]]:
    """A head's rows for one image."""
    if kind == "masked_words":
        return [row for count in counts for row in masked(head, gain, image, count, words)]
    if kind == "retrieval":
        return retrieval(head, gain, image, words)
    return [similarity(head, gain, image, words)]


def example(head: str, image: int, words: Sequence[str]) -> dict[str, Any]:
    return {
        "head": head, "image_id": f"t{image:03d}", "picture": png(image), "caption": f"{image} {' '.join(words)}",
    }  # fmt: skip


def masked(head: str, gain: float, image: int, count: int, words: Sequence[str]) -> list[dict[str, Any]]:
    left = list(words[:count])
    best = [[word, "sea"] if gain else ["sea", word] for word in left]
    return [{
        **example(head, image, words), "count": count,
        "masked": " ".join([str(image), *["____"] * count, *words[count:]]), "words": left, "predictions": best,
        "chances": [[0.5, 0.125]] * count, "right": [gain > 0] * count,
    }]  # fmt: skip


def retrieval(head: str, gain: float, image: int, words: Sequence[str]) -> list[dict[str, Any]]:
    own, other = example(head, image, words), example(head, image + 10, words)
    both = (own, other) if gain else (other, example(head, image + 20, words))
    common = {
        **own,
        "captions": [row["caption"] for row in both],
        "scores": [0.75, -0.25],
        "right": [gain > 0, False],
    }
    return [
        {**common, "direction": "image_to_text", "image_ids": [], "pictures": []},
        {
            **common, "direction": "text_to_image", "image_ids": [row["image_id"] for row in both],
            "pictures": [row["picture"] for row in both],
        },
    ]  # fmt: skip


def similarity(head: str, gain: float, image: int, words: Sequence[str]) -> dict[str, Any]:
    count = len(words)
    square = np.full((count, count), 0.5) + np.eye(count) / 2
    codes = np.full((count, count), 0.5 - gain) + np.eye(count) * (0.5 + gain)
    return {
        **example(head, image, words), "words": list(words), "positions": list(range(count)),
        "codes": [[100 + i] for i in range(count)], "word_cosines": square.tolist(), "code_cosines": codes.tolist(),
        "projected_cosines": codes.tolist() if head == "fresh" else None,
    }  # fmt: skip
