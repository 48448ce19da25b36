"""The codebooks that an evaluation measured, as the report reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.evaluation import EVALUATION, USAGE
from vqpipe.artifacts.tables import read_table
from vqpipe.report.about_reconstructions import book_name, evaluations
from vqpipe.report.inputs import Inputs


@dataclass(frozen=True)
class Book:
    """One codebook of one evaluated tokenizer; `index` is its group's number. `counts`: uses over the
    split; `norms`: |e_k|; `places` in t-SNE, NaN where a code has none, `no_map` says why none has."""

    variant: str
    group: str
    index: int
    label: str
    folder: Path
    counts: np.ndarray
    norms: np.ndarray
    places: np.ndarray
    no_map: str | None


def read_books(inputs: Inputs) -> list[Book]:
    """Every codebook of every evaluation that is there, variants in the order of the params, groups in their own.

    Raises:
        ArtifactError: an evaluation that is damaged or of another version.
    """
    books = []
    for variant, folder in evaluations(inputs):
        table = read_table(folder / "usage.parquet", USAGE, ["group", "count", "norm", "map_x", "map_y"])
        absent = read_manifest(folder, EVALUATION).facts.get("map", {})
        belongs = np.array(table["group"].to_pylist(), dtype=object)
        counts, norms, x, y = (table[name].to_numpy() for name in ("count", "norm", "map_x", "map_y"))
        places = np.stack([x.astype(np.float64), y.astype(np.float64)], axis=1)
        groups = list(dict.fromkeys(belongs.tolist()))
        for index, group in enumerate(groups):
            own, label = belongs == group, book_name(variant, group, len(groups))
            arrays = (counts[own].astype(np.int64), norms[own].astype(np.float64), places[own])
            books.append(Book(variant, group, index, label, folder, *arrays, absent.get(group)))
    return books
