"""A synthetic artifacts folder for the report's tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import numpy as np
import torch
from report_tree_health import png, write_health, write_replaced
from ruamel.yaml import YAML

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import publish_folder, publish_json, publish_text
from vqpipe.artifacts.run import stage_run
from vqpipe.artifacts.specs.codebooks import (
    ADJECTIVES,
    CENTROID_TENSORS,
    EDGES,
    NOUNS,
    PATCHES_CODEBOOK,
    WORD_VECTORS,
    WORDS_CODEBOOK,
)
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES, QUARANTINE
from vqpipe.artifacts.specs.evaluation import (
    EVALUATION,
    EXAMPLES,
    PER_IMAGE,
    USAGE,
    WORDS,
)
from vqpipe.artifacts.specs.prior import COMPLETIONS, NEAREST, PRIOR, SAMPLES
from vqpipe.artifacts.tables import ShardWriter, to_table, write_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.data.build import DatasetMetrics
from vqpipe.data.images import encode_png
from vqpipe.evaluation.measure import EvaluationMetrics, FloorMetrics
from vqpipe.metrics.codes import CodeMetrics
from vqpipe.metrics.measured import Interval
from vqpipe.priors.measure import PriorMetrics, SplitBits
from vqpipe.report.inputs import ReportParams
from vqpipe.text.graph import GraphMetrics
from vqpipe.text.vocabulary import VocabularyMetrics
from vqpipe.tokenizers.train import TokenizerMetrics
from vqpipe.training.clip import ClipMetrics
from vqpipe.vision.cluster import ClusterMetrics

M = TypeVar("M", bound=Metrics)
HOSTILE = "</figcaption><script>alert(1)</script> <img src=x onerror=alert(2)> \"'& {{ 7 * 7 }}"
VARIANTS, PAIRS = ("vq", "vqct", "lc"), ("vq-gpt", "lc-gpt")

PARAMS = ReportParams(
    title="Report",
    max_picture_pixels=128,
    num_dataset_images=6,
    num_reconstructions=2,
    num_pairs=10,
    num_edges=12,
    num_code_words=6,
    num_samples=8,
    num_task_examples=2,
    error_levels=64,
)


def filled(model: type[M], known: Mapping[str, Any]) -> M:
    """Metrics with `known` fields; others that the model requires are 0, empty, or the first choice."""
    content = dict(known)
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Metrics) and (field.is_required() or name in known):
            own = content.get(name, {})
            content[name] = own if isinstance(own, Metrics) else filled(kind, own)
        elif name not in known and field.is_required():
            content[name] = _blank(kind)
    return model.model_validate(content)


def _blank(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    blanks: dict[Any, Any] = {int: 0, float: 0.0, str: "x", dict: {}, list: []}
    return blanks.get(get_origin(kind) or kind)


def write_metrics(root: Path, name: str, metrics: Metrics) -> None:
    """Publish `artifacts/metrics/NAME.json`."""
    publish_json(root / f"artifacts/metrics/{name}.json", metrics.plain())


def write_params(root: Path) -> Path:
    tree = {
        "dataset": {"source": {"kind": "scenes", "seed": 0}, "max_bad_fraction": 0.01},
        "tokenizer": {
            "common": {"resolution": 32, "training": {"learning_rate": 1e-4, "betas": [0.5, 0.9]}},
            "variants": {
                name: {"codebook": "none", "quantizer": {"kind": name, "num_codes": 1024}}
                for name in VARIANTS
            },
        },
        "prior": {
            "common": {"seed": 1},
            "pairs": {name: {"tokenizer": name.split("-")[0]} for name in PAIRS},
        },
        "report": PARAMS.model_dump(),
    }
    with (root / "params.yaml").open("w") as stream:
        YAML().dump(tree, stream)
    return root / "params.yaml"


def write_dataset(folder: Path, caption: str) -> None:
    captions = [caption, "a small red boat under a grey sky", "two striped birds on a wooden fence"]
    rows = [
        {
            "image_id": f"t{i:04d}",
            "image": png(i),
            "height": 32,
            "width": 32,
            "label": 0,
            "label_name": "boat",
            "captions": [captions[i % 3]],
            "things": [],
            "referring": [],
            "questions": [],
            "segmentation": None,
        }
        for i in range(20)
    ]
    bad = [{"split": "train", "item": caption, "reason": "truncated", "detail": "image file is truncated"}]
    facts: dict[str, Any] = {}
    with publish_folder(folder, DATASET, facts) as partial:
        writer = ShardWriter(partial, "train", IMAGES)
        writer.write(to_table(IMAGES, rows))
        writer.close()
        write_table(partial / "quarantine.parquet", QUARANTINE, to_table(QUARANTINE, bad))
        facts.update(
            kind="scenes", classes=["boat"], splits={"train": {"images": 20, "shards": writer.shards}}
        )


def interval(mean: float, spread: float = 0.01) -> Interval:
    return Interval(mean=mean, low=mean - spread, high=mean + spread)


def measures(gain: float) -> dict[str, Any]:
    return {
        "psnr": interval(20 + gain, 0.12),
        "ssim": interval(0.6 + gain / 50),
        "l1": interval(0.12 - gain / 100, 0.001),
        "l2": interval(0.04 - gain / 400, 0.001),
        "clip_distance": interval(0.3 - gain / 30),
        "fd_clip": 40 - 4 * gain,
        "kd_clip": 0.05 - 0.004 * gain,
        "kd_clip_std": 0.001,
        "precision_clip": 0.5 + gain / 20,
        "recall_clip": 0.4,
        "bits_per_image": 640.0,
    }


def evaluated(number: int, groups: tuple[str, ...] = ("code",), **further: Any) -> EvaluationMetrics:
    """What the evaluation of the `number`-th tokenizer measured; `further` fields replace these."""
    usage = filled(
        CodeMetrics,
        {
            "num_codes": 1024, "num_tokens": 128000, "utilisation": 0.2 + 0.3 * number, "uniform_expectation": 1.0,
            "perplexity": 101.0 + number, "entropy_bits": 7.0, "perplexity_share": (101.0 + number) / 1024,
            "tail_mass": 0.05 * number, "share_for_90_percent": 0.1 + 0.2 * number, "norm_ratio": 1.5,
            "effective_rank": 12.25, "nearest_similarity": 0.75,
        },
    )  # fmt: skip
    k_means = {**measures(-1), "num_codes": 1024, "wanted_num_codes": 1024}
    content = {
        **measures(number),
        "codes": dict.fromkeys(groups, usage),
        "floors": {
            "block_mean": {**measures(-2), "bits_per_image": 1536.0},
            "patch_kmeans": filled(FloorMetrics, k_means),
        },
        "ceiling": {
            "train_halves": {"fd_clip": 1.5, "kd_clip": 0.0001, "precision_clip": 0.8, "recall_clip": 0.8}
        },
        "replaced": {"num_images": 3, "psnr_0": interval(21.0 + number), "psnr_1": interval(18.9)},
        "protocol": {
            "split": "test", "num_images": 2000, "resolution": 32, "grid": "8 x 8", "num_bootstrap": 1000,
            "perceptual": "clip_distance", "distance_images": 2000, "features": "a small CLIP", "feature_dim": 128,
        },
        "measured": {
            "images": {"split": "test", "num_images": 2000, "pixels": "3 x 32 x 32", "digest": "a1b2"},
            "protocol": {"digest": "c3d4", "features": "a small CLIP"},
        },
    }  # fmt: skip
    return filled(EvaluationMetrics, content | further)


def write_evaluation(root: Path, number: int, variant: str, word: str) -> None:
    groups = ("adjective", "noun") if variant == "vqct" else ("code",)
    write_metrics(root, f"evaluate/{variant}", evaluated(number, groups))
    collapse = 120 if variant == "vq" else None
    trained = {
        "num_steps": 300, "latent_scale": 0.7, "validation": {"psnr": 20.5 + number},
        "codes": {
            "collapse_step": collapse, "collapse_steps": [collapse] * len(groups),
            "dead_after_steps": [20] * len(groups),
        },
        "parameters": {"encoder": 500_000, "quantizer": 60_000, "decoder": 700_000, "discriminator": 0},
    }  # fmt: skip
    write_metrics(root, f"tokenizer/{variant}", filled(TokenizerMetrics, trained))
    names_of = [
        "ae/loss", "ae/codes_in_batch_0", "ae/psnr",
        *(f"ae/{name}_{g}" for g in range(len(groups)) for name in ("dead_share", "window_perplexity")),
    ]  # fmt: skip
    lines = [
        f"{s},{2 * math.exp(-s / 90) + 0.1 * number:.5f},{s * 3.0},{20 + number - 8 * math.exp(-s / 60):.4f}"
        + (f",{(2.5 - number) / 3 * s / 300:.4f},{20 + number * s}" if s >= 20 else ",,") * len(groups)
        for s in range(0, 300, 10)
    ]
    publish_text(
        root / f"artifacts/curves/tokenizer/{variant}.csv",
        "\n".join([",".join(["step", *names_of]), *lines, ""]),
    )
    examples = [
        {
            "kind": kind,
            "image_id": f"{kind}-{i}",
            "original": png(10 * k + i),
            "psnr": 20.0 + i,
            "ssim": 0.5,
            "reconstruction": png(10 * k + i, noise=30 - 8 * number),
            "perceptual": 0.3,
        }
        for k, kind in enumerate(("random", "hard", "typical", "easy", "worst"))
        for i in range(3)
    ]
    names = {"vqct": word}
    counts = [
        int(8000 / (rank + 1) ** (1.3 - 0.4 * number)) if rank < 400 + 200 * number else 0
        for rank in range(1024)
    ]
    facts: dict[str, Any] = {"map": dict.fromkeys(groups), "num_codes": [1024] * len(groups)}
    if variant == "vq":
        facts["ranks_left_out"] = [50]
    with publish_folder(root / "artifacts/evaluation" / variant, EVALUATION, facts) as folder:
        per_image = {"image_id": "a", "psnr": 1.0, "ssim": 1.0, "l1": 0.0, "l2": 0.0, "perceptual": None}
        write_table(folder / "per_image.parquet", PER_IMAGE, to_table(PER_IMAGE, [per_image]))
        write_table(folder / "examples.parquet", EXAMPLES, to_table(EXAMPLES, examples))
        rows = [
            {
                "group": g, "code": c, "name": names.get(variant), "count": n, "norm": 1 + c / 1024,
                "map_x": math.cos(c) * c if c < 200 else None, "map_y": math.sin(c) * c if c < 200 else None,
            }
            for g in groups
            for c, n in enumerate(counts)
        ]  # fmt: skip
        write_table(folder / "usage.parquet", USAGE, to_table(USAGE, rows))
        patches = [
            {
                "group": g,
                "code": c,
                "name": names.get(variant),
                "count": 900 - c,
                "patches": [png(100 * c + p, 8) for p in range(6)],
            }
            for g in groups
            for c in range(8)
        ]
        write_table(folder / "words.parquet", WORDS, to_table(WORDS, patches))
        write_health(folder, groups, names.get(variant))
        if variant != "vqct":
            write_replaced(folder, number, word)


def write_words(root: Path, word: str) -> None:
    nouns, adjectives = (
        [word, *(f"noun{i}" for i in range(19))],
        ["small", *(f"adjective{i}" for i in range(14))],
    )
    pairs = sorted({(i * 7 % 15, i * 11 % 20) for i in range(60)})
    edges = [
        {
            "adjective": a,
            "noun": n,
            "count": 5 + (a * 13 + n * 7) % 90,
            "weight": 1.0,
            "pmi": (a * 5 + n * 3) % 11 / 4 - 1,
            "examples": ["t0001"],
        }
        for a, n in pairs
    ]
    facts = {"weight": "binary", "min_count": 5, "clip": "x", "dim": 4}
    with publish_folder(root / "artifacts/codebook/words", WORDS_CODEBOOK, facts) as folder:
        for spec, words in ((ADJECTIVES, adjectives), (NOUNS, nouns)):
            rows = [{"index": i, "word": w, "count": 900 // (i + 1)} for i, w in enumerate(words)]
            write_table(folder / f"{spec.name}.parquet", spec, to_table(spec, rows))
        write_table(folder / "edges.parquet", EDGES, to_table(EDGES, edges))
        vectors = {"adjectives": torch.zeros(15, 4), "nouns": torch.zeros(20, 4)}
        write_tensors(folder / "vectors.safetensors", WORD_VECTORS, vectors)
    with publish_folder(root / "artifacts/codebook/patches", PATCHES_CODEBOOK, {}) as folder:
        tensors = {"centroids": torch.zeros(64, 4), "counts": torch.arange(64, 0, -1) ** 2}
        write_tensors(folder / "centroids.safetensors", CENTROID_TENSORS, tensors)


def label_png(number: int) -> bytes:
    """A label map of two classes, 2 above 1, the second larger, with a corner of none."""
    classes = np.full((16, 16), 1, dtype=np.uint8)
    classes[: 2 + number % 4] = 2
    classes[-1, -1] = 0
    return encode_png(classes)


def write_prior(
    root: Path,
    number: int,
    pair: str,
    captions: bool = False,
    maps: bool = False,
    holes: bool = False,
    **further: Any,
) -> None:
    facts = {"map_classes": ["sea", "<sky>"] if maps else []}
    with publish_folder(root / "artifacts/prior" / pair, PRIOR, facts) as folder:
        (folder / "model.safetensors").write_bytes(b"")
        (folder / "samples.png").write_bytes(png(1))
        (folder / "unigram.png").write_bytes(png(2, 96))
        samples = [
            {
                "image": png(300 + i),
                "label": 1,
                "label_name": "" if captions or maps else "boat",
                "caption": f"boat {i}" if captions else "",
                "label_map": label_png(i) if maps else None,
                "indices": [1],
            }
            for i in range(12)
        ]
        write_table(folder / "samples.parquet", SAMPLES, to_table(SAMPLES, samples))
        nearest = [
            {"sample": png(300 + i), "train": png(i), "train_id": f"t{i}", "rmse": 31.5, "same_codes": 0.2}
            for i in range(6)
        ]
        write_table(folder / "nearest.parquet", NEAREST, to_table(NEAREST, nearest))
        if holes:
            mask = np.zeros((32, 32), dtype=np.uint8)
            mask[16:] = 255
            rows = [
                {
                    "image_id": "x1", "hole": "lower_half", "mask": encode_png(mask), "original": png(1),
                    "reconstruction": png(2), "completions": [png(3), png(4)], "label": 1, "label_name": "boat",
                    "caption": "",
                },
            ]  # fmt: skip
            write_table(folder / "completions.parquet", COMPLETIONS, to_table(COMPLETIONS, rows))

    def near(distance: float) -> dict[str, float]:
        return {"rmse": distance, "same_codes": 0.2, "copies": 0}

    own = measures(number)
    content = {
        "bits_per_image": 512.0, "bits_per_token": 8.0, "unigram_bits_per_token": 9.2, "unigram_bits_per_image": 588.8,
        "fixed_length_bits_per_token": 10.0, "validation": SplitBits(bits_per_token=8.1),
        "train": SplitBits(bits_per_token=7.9), "num_parameters": 1_300_000, "num_steps": 300, "condition": "class",
        "num_samples": 500, "measured": {"protocol": {"digest": "0f1e"}},
        **{
            kind: {k: own[k] for k in ("fd_clip", "kd_clip", "precision_clip", "recall_clip")}
            for kind in ("samples", "unigram_samples", "reconstructions")
        },
        "nearest_train": {
            "samples": near(31.0), "reconstructions": near(33.0), "num_compared": 128, "rmse_ratio": 0.94,
        },
    }  # fmt: skip
    write_metrics(root, f"prior/{pair}", filled(PriorMetrics, content | further))
    lines = [f"{s},{9 - 3 * s / 300 - number / 2:.4f}" for s in range(0, 300, 10)]
    publish_text(root / f"artifacts/curves/prior/{pair}.csv", "\n".join(["step,main/loss", *lines, ""]))


def write_tree(root: Path, caption: str = HOSTILE) -> Path:
    """A synthetic artifacts folder next to its params file."""
    params = write_params(root)
    with stage_run("dataset", {}) as run:
        write_dataset(run.staged(root / "artifacts/dataset"), caption)
    degree = {
        "mean": 4.0, "quarter": 2.0, "median": 4.0, "three_quarters": 5.5, "ninety_percent": 7.2, "max": 9,
    }  # fmt: skip
    single: dict[type[Metrics], dict[str, Any]] = {
        DatasetMetrics: {
            "images": {"test": 2000, "train": 4000, "validation": 500},
            "captions": {"test": 8000, "train": 16000, "validation": 2000},
            "num_classes": 24, "quarantined": {"truncated": 1}, "bad_fraction": 0.00015,
        },
        ClipMetrics: {
            "id": caption, "num_validation": 500, "num_texts": 1900,
            "image_to_text_r1": 0.31, "chance_image_to_text_r1": 0.002,
            "image_to_text_r5": 0.66, "chance_image_to_text_r5": 0.01,
            "text_to_image_r1": 0.3, "chance_text_to_image_r1": 0.002,
        },
        VocabularyMetrics: {"num_adjectives": 46, "num_nouns": 61},
        GraphMetrics: {
            "num_edges": 60, "precision": 0.98, "recall": 0.97, "degree": {"adjectives": degree, "nouns": degree},
        },
        ClusterMetrics: {"num_clusters": 64, "objective": 0.41},
    }  # fmt: skip
    for model, content in single.items():
        write_metrics(root, model.__name__.removesuffix("Metrics").lower(), filled(model, content))
    publish_text(
        root / "artifacts/curves/clip.csv",
        "step,main/loss,main/accuracy\n0,5.5,0.01\n10,4.2,0.1\n20,3.0,0.3\n",
    )
    publish_text(
        root / "artifacts/curves/cluster.csv",
        "step,objective,empty,refilled\n1,0.9,3,3\n2,0.55,1,1\n3,0.41,0,0\n",
    )
    write_words(root, caption)
    for number, variant in enumerate(VARIANTS):
        write_evaluation(root, number, variant, caption)
    for number, pair in enumerate(PAIRS):
        write_prior(root, number, pair)
    return params
