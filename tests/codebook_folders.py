"""Small codebooks and patches on disk, as the stages `graph`, `cluster` and `patches` leave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.codebooks import CENTROID_TENSORS, PATCHES_CODEBOOK
from vqpipe.artifacts.specs.patches import PATCH_IMAGES, PATCH_SHARD, PATCHES
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.codebooks.words import WordsCodebook, publish_words_codebook


def publish_words(folder: Path, words: WordsCodebook, clip: str | None) -> Path:
    """Publish a words codebook with vectors that its facts ascribe to the CLIP with that id."""
    weights = words.weights.tolist()
    whole = replace(
        words,
        facts={"clip_id": clip, "vectors": {"kind": "clip" if clip else "random"}, "dim": words.vectors.shape[1]},
        adjective_counts=[1] * len(words.adjectives), noun_counts=[1] * len(words.nouns),
        edge_counts=[int(weight) for weight in weights], edge_pmi=[0.0] * len(weights),
        edge_examples=[["0"]] * len(weights),
    )  # fmt: skip
    publish_words_codebook(folder, whole)
    return folder


def publish_centroids(folder: Path, vectors: Tensor, clip: str, **changes: Any) -> Path:
    """Publish a patches codebook whose facts, with the changes, ascribe it to the CLIP with that id."""
    facts = {
        "num_clusters": len(vectors), "dim": vectors.shape[1], "clip_id": clip, "projected": True, "grid": 1,
        "objective": 1.0, "num_vectors": 100, "method": "kmeans", "per_class": False, "prefixes": [],
        **changes,
    }  # fmt: skip
    tensors = {"centroids": vectors, "counts": (vectors[:, 0] * 0 + 1).long()}
    with publish_folder(folder, PATCHES_CODEBOOK, facts) as partial:
        write_tensors(partial / "centroids.safetensors", CENTROID_TENSORS, tensors, facts)
    return folder


def write_patches(folder: Path, features: Tensor) -> Path:
    """Publish patches of the given features, one for each image."""
    num, dim = features.shape
    facts = {
        "clip_id": "tiny:random:0", "dim": dim, "grid": 1, "projected": True, "num_vectors": num, "num_images": num,
        "num_shards": 1,
    }  # fmt: skip
    numbers = torch.arange(num, dtype=torch.int32)
    with publish_folder(folder, PATCHES, facts) as partial:
        rows = {"image": numbers.numpy(), "image_id": [str(n) for n in range(num)]}
        write_table(partial / "images.parquet", PATCH_IMAGES, to_table(PATCH_IMAGES, rows))
        tensors = {"features": features.half(), "image": numbers, "position": numbers * 0}
        write_tensors(partial / "patches-00000.safetensors", PATCH_SHARD, tensors)
    return folder
