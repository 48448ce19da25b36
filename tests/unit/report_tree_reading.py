"""Readings in the synthetic artifacts folder: a plain tokenizer, its aligned variant, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report_tree_health import png
from ruamel.yaml import YAML

from vqpipe.artifacts.publish import publish_folder, publish_json, publish_text
from vqpipe.artifacts.specs.reading import (
    READING,
    READING_MASKED,
    READING_PER_IMAGE,
    READING_RETRIEVAL,
    READING_SIMILARITY,
)
from vqpipe.artifacts.tables import to_table, write_table

NUM_IMAGES = 100
ALIGN: dict[str, Any] = {
    "width": 16, "num_layers": 1, "num_heads": 1, "max_tokens": 24,
    "global": {
        "weight": 1.0, "directions": "both", "temperature": {"kind": "fixed", "value": 0.1}, "gather": False,
    },
    "masked": {
        "weight": 1.0, "mean": 0.5, "std": 0.1, "low": 0.1, "high": 0.3, "num_layers": 1, "width": 16, "dropout": 0.1,
        "label_smoothing": 0.1,
    },
    "relationship": {"weight": 1.0, "projection": "mlp"},
}  # fmt: skip
READ: dict[str, Any] = {
    "align": ALIGN, "training": None, "seed": 0, "num_images": NUM_IMAGES, "masked_counts": [1, 3], "batch_size": 8,
    "num_bootstrap": 200, "examples": {"num_images": 3, "num_candidates": 2, "num_predictions": 2},
}  # fmt: skip


def name_readings(params: Path, readings: Mapping[str, str], aligned: Mapping[str, str]) -> None:
    """Put readings (name to tokenizer) into a params file, and aligned variants (name to the plain one's)."""
    yaml = YAML()
    tree = yaml.load(params.read_text())
    for name, plain in aligned.items():
        own = {**tree["tokenizer"]["variants"][plain], "align": ALIGN}
        tree["tokenizer"]["variants"][name] = own
    tree["read"] = {
        "common": READ, "variants": {name: {"tokenizer": tokenizer} for name, tokenizer in readings.items()},
    }  # fmt: skip
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


def interval(found: np.ndarray) -> dict[str, float]:
    mean = float(found.mean())
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


def metrics_of(found: Mapping[str, np.ndarray], without: Sequence[str] = ()) -> dict[str, Any]:
    """What the stage's metrics say of one reader; parts named in `without` are left out."""
    parts: dict[str, Any] = {"heads": "global, masked, relationship"}
    for count in (1, 3):
        parts[f"masked_{count}"] = {
            "num_captions": NUM_IMAGES, "num_left_out": 2 if count == 3 else 0, "commonest": 0.17, "chance": 0.006,
            **{name: interval(found[f"masked_{count}.{name}"]) for name in ("recall", "other_image")},
        }  # fmt: skip
    for way in ("image_to_text", "text_to_image"):
        part: dict[str, Any] = {"num_queries": NUM_IMAGES, "num_candidates": NUM_IMAGES}
        for rank in (1, 5, 10):
            part |= {f"r{rank}": interval(found[f"{way}.r{rank}"]), f"chance_r{rank}": rank / NUM_IMAGES}
        parts[way] = part
    parts["similarity"] = {
        "num_captions": NUM_IMAGES, "num_left_out": 0, "constant": 0.05, "same_position": 0.25,
        "raw": {
            "mse": interval(found["similarity.raw"]), "chance": interval(found["similarity.raw"] + 0.1),
            "correlation": 0.31,
        },
        "projected": {"mse": interval(found["similarity.projected"]), "chance": {"mean": 0.3, "low": 0.2, "high": 0.4}},
    }  # fmt: skip
    return {name: part for name, part in parts.items() if name not in without}


def write_reading(
    root: Path,
    name: str,
    gains: Mapping[str, float],
    words: Sequence[str],
    without: Sequence[str] = (),
    first: int = 0,
) -> None:
    """One reading: `gains` of its readers (fresh, own), `words` of every caption that is shown, the `first` image."""
    found = {reader: values(gain) for reader, gain in gains.items()}
    publish_json(
        root / f"artifacts/metrics/read/{name}.json",
        {
            **{reader: metrics_of(own, without) for reader, own in found.items()},
            "training": {
                "num_steps": 300, "num_rollbacks": 0, "weights": "ema", "loss": 4.125, "batch_size": 8,
                "tokenizer_steps": 300,
            },
            "protocol": {
                "split": "test", "num_images": NUM_IMAGES, "seed": 0, "captions": "one of each image, drawn by seed",
                "num_tokens": 164, "num_positions": 64, "groups": 1,
            },
        },
    )  # fmt: skip
    publish_text(root / f"artifacts/curves/read/{name}.csv", "step,main/loss\n10,5.5\n20,4.2\n")
    facts = {"split": "test", "num_images": NUM_IMAGES, "grid": [8, 8], "readers": list(gains), "groups": 1}
    with publish_folder(root / "artifacts/reading" / name, READING, facts) as folder:
        per_image = [
            {"reader": reader, "measure": measure, "image_id": f"t{i + first:03d}", "value": float(value)}
            for reader, own in found.items()
            for measure, values_of in own.items()
            if measure.split(".")[0] not in without
            for i, value in enumerate(values_of)
        ]
        write_table(folder / "per_image.parquet", READING_PER_IMAGE, to_table(READING_PER_IMAGE, per_image))
        shown = [(reader, gain, image) for reader, gain in gains.items() for image in range(3)]
        tables = (
            (READING_MASKED, [
                row for r, gain, i in shown for count in (1, 3) for row in masked(r, gain, i, count, words)
                if f"masked_{count}" not in without
            ]),
            (READING_RETRIEVAL, [
                row for r, gain, i in shown for row in retrieval(r, gain, i, words) if row["direction"] not in without
            ]),
            (READING_SIMILARITY, [
                similarity(r, gain, i, words) for r, gain, i in shown if "similarity" not in without
            ]),
        )  # fmt: skip
        for spec, rows in tables:
            write_table(folder / f"{spec.name.removeprefix('reading-')}.parquet", spec, to_table(spec, rows))


def example(reader: str, image: int, words: Sequence[str]) -> dict[str, Any]:
    return {
        "reader": reader, "image_id": f"t{image:03d}", "picture": png(image), "caption": f"{image} {' '.join(words)}",
    }  # fmt: skip


def masked(reader: str, gain: float, image: int, count: int, words: Sequence[str]) -> list[dict[str, Any]]:
    left = list(words[:count])
    best = [[word, "sea"] if gain else ["sea", word] for word in left]
    return [{
        **example(reader, image, words), "count": count,
        "masked": " ".join([str(image), *["____"] * count, *words[count:]]), "words": left, "predictions": best,
        "chances": [[0.5, 0.125]] * count, "right": [gain > 0] * count,
    }]  # fmt: skip


def retrieval(reader: str, gain: float, image: int, words: Sequence[str]) -> list[dict[str, Any]]:
    own, other = example(reader, image, words), example(reader, image + 10, words)
    both = (own, other) if gain else (other, example(reader, image + 20, words))
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


def similarity(reader: str, gain: float, image: int, words: Sequence[str]) -> dict[str, Any]:
    count = len(words)
    square = np.full((count, count), 0.5) + np.eye(count) / 2
    codes = np.full((count, count), 0.5 - gain) + np.eye(count) * (0.5 + gain)
    return {
        **example(reader, image, words), "words": list(words), "positions": list(range(count)),
        "codes": [[100 + i] for i in range(count)], "word_cosines": square.tolist(), "code_cosines": codes.tolist(),
        "projected_cosines": codes.tolist() if reader == "fresh" else None,
    }  # fmt: skip
