"""The tables of codebook health in the synthetic artifacts folder, and its pictures."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from vqpipe.artifacts.specs.evaluation import DECODED, REPLACED, SIMILARITY, USAGE_CURVE
from vqpipe.artifacts.tables import to_table, write_table


def png(seed: int, side: int = 32, noise: float = 0.0) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)).astype(float)
    image = np.clip(image + noise * np.random.default_rng(seed + 1).normal(size=image.shape), 0, 255).astype(
        np.uint8
    )
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_health(folder: Path, groups: tuple[str, ...], word: str | None) -> None:
    curve = [
        {"group": g, "images": n, "tokens": 64 * n, "used": 10 + n // 4, "uniform": 1024.0 * n / 2000}
        for g in groups
        for n in (1, 10, 100, 2000)
    ]
    write_table(folder / "usage_curve.parquet", USAGE_CURVE, to_table(USAGE_CURVE, curve))
    similarity = [
        {"group": g, "code": c, "name": word, "count": 9 - c, "cosine": [math.cos(c - d) for d in range(6)]}
        for g in groups
        for c in range(6)
    ]
    write_table(folder / "similarity.parquet", SIMILARITY, to_table(SIMILARITY, similarity))
    decoded = [
        {
            "group": "code" if len(groups) == 1 else "pair", "codes": [c // 3] * (len(groups) - 1) + [c],
            "names": [word] * len(groups), "count": 5 - c, "picture": png(700 + c),
        }
        for c in range(6)
    ]  # fmt: skip
    write_table(folder / "decoded.parquet", DECODED, to_table(DECODED, decoded))


def write_replaced(folder: Path, number: int, word: str) -> None:
    """Two images, of a tokenizer that lacks the 50th code where `number` is 0."""
    ranks = [1, 50] if number else [1]
    rows = [
        {
            "image_id": f"random-{i}", "original": png(i), "reconstruction": png(i, noise=20),
            "psnr": 20.0 + i + number, "tokens": 64, "ranks": ranks, "pictures": [png(i, noise=40 + n) for n in ranks],
            "psnrs": [18.0 + i - n / 10 for n in ranks], "changed": [64] * len(ranks),
            "other_id": word, "mixed": png(900 + i), "mixed_changed": 15,
        }
        for i in range(3)
    ]  # fmt: skip
    write_table(folder / "replaced.parquet", REPLACED, to_table(REPLACED, rows))
