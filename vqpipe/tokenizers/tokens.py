"""Every image of every split as indices, written and read as one artifact.

Letters: n images, g groups of codes, h w the token grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int64, UInt8
from pydantic import Field
from torch import Tensor

from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.dataset import DATASET
from vqpipe.artifacts.specs.tokens import CODES, TOKENS
from vqpipe.artifacts.tables import ShardWriter, iter_batches, schema_of
from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.errors import ArtifactError
from vqpipe.params.base import Params
from vqpipe.runtime.batches import in_turns, slices
from vqpipe.runtime.distributed import barrier, is_main
from vqpipe.runtime.terminal import progress_bar
from vqpipe.tokenizers.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")
CHUNK_ROWS = 1024
"""Rows that the ranks share and that are written at once; fixed, so that no shard depends on the ranks."""


class TokensParams(Params):
    """How images are turned into indices. The crop is the centre one, at the tokenizer's resolution."""

    batch_size: Annotated[int, Field(ge=1, le=4096)]
    """Images encoded at once on each rank."""


@dataclass(frozen=True)
class TokenSet:
    """The tokens artifact without its rows; `TokenSet.open(folder)`, then `.split(name)`."""

    folder: Path
    groups: int
    num_codes: tuple[int, ...]
    grid: tuple[int, int]
    classes: tuple[str, ...]
    """Names of the classes; empty where the images have none."""
    facts: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> TokenSet:
        """Read the manifest.

        Raises:
            ArtifactError: missing, damaged, or of another version.
        """
        facts = read_manifest(folder, TOKENS).facts
        height, width = facts["grid"]
        return cls(
            folder,
            int(facts["groups"]),
            tuple(facts["num_codes"]),
            (height, width),
            tuple(facts["classes"]),
            facts,
        )

    def split(self, name: str) -> TokenSplit:
        """Read one split whole: 4 bytes an index, so ImageNet's 1.28 M x 256 is 1.3 GB.

        Raises:
            ArtifactError: no such split, or rows that do not have the manifest's grid.
        """
        if name not in self.facts["splits"]:
            raise ArtifactError(f"{self.folder} has no split {name}", choices=list(self.facts["splits"]))
        paths = [self.folder / shard for shard in self.facts["splits"][name]["shards"]]
        batches = [batch for path in paths for batch in iter_batches(path, CODES)]
        table = pa.Table.from_batches(batches, schema=batches[0].schema if batches else schema_of(CODES))
        values = table["indices"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        shape = (table.num_rows, self.groups, *self.grid)
        if values.size != np.prod(shape):
            raise ArtifactError(
                f"{self.folder}: {name} does not have the manifest's grid",
                found=f"{values.size} indices in {table.num_rows} rows", expected=f"{shape[1:]} a row",
                run="dvc repro tokens",
            )  # fmt: skip
        return TokenSplit(
            name, table["image_id"].to_pylist(), torch.from_numpy(table["label"].to_numpy().astype(np.int64)),
            torch.from_numpy(np.array(values.reshape(shape), dtype=np.int32)),
        )  # fmt: skip


@dataclass(frozen=True)
class TokenSplit:
    """The rows of one split in the dataset's order; `indices` is int32 of (n, g, h, w); label -1 is none."""

    name: str
    ids: list[str]
    labels: Int64[Tensor, " n"]
    indices: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: np.ndarray | slice) -> tuple[Int64[Tensor, "b g h w"], Int64[Tensor, " b"]]:
        """Indices and labels of some rows."""
        chosen = rows if isinstance(rows, slice) else torch.from_numpy(np.array(rows))
        return self.indices[chosen].long(), self.labels[chosen]


def write_tokens(
    dataset: Path, tokenizer: Tokenizer, out: Path, config: TokensParams, device: torch.device
) -> dict[str, Any]:
    """Encode every image (centre crop at the tokenizer's resolution) and publish the tokens; rank 0 writes.

    Images are encoded in fixed batches that the ranks share out, so that the ranks' number changes no bytes.

    Returns:
        The manifest's facts.

    Raises:
        ArtifactError: the dataset is missing or of another version.
    """
    source = read_manifest(dataset, DATASET).facts
    splits = [name for name in SPLITS if name in source["splits"]]
    facts: dict[str, Any] = {
        "groups": tokenizer.groups, "grid": list(tokenizer.grid), "num_codes": list(tokenizer.num_codes),
        "resolution": tokenizer.resolution, "classes": [str(name) for name in source["classes"]],
        "splits": {},
        "tokenizer": {"quantizer": tokenizer.config.quantizer.kind},
    }  # fmt: skip

    def opened() -> Iterator[tuple[str, ImageSplit]]:
        """One split after another: only one is in memory."""
        for name in splits:
            yield name, ImageSplit.open(dataset, name, tokenizer.resolution)

    with progress_bar("tokens", sum(source["splits"][name]["images"] for name in splits)) as bar:
        if not is_main():
            for _, split in opened():
                for _ in _encoded(split, tokenizer, config.batch_size, device):
                    pass
            barrier()
            return facts
        with publish_folder(out, TOKENS, facts) as folder:
            for name, split in opened():
                writer = ShardWriter(folder, name, CODES)
                for start, indices in _encoded(split, tokenizer, config.batch_size, device):
                    rows = slice(start, start + len(indices))
                    writer.write(codes_table(split.ids[rows], name, split.labels[rows], indices))
                    bar.advance(len(indices))
                writer.close()
                facts["splits"][name] = {"images": writer.rows, "shards": writer.shards}
    barrier()
    return facts


def _encoded(
    split: ImageSplit, tokenizer: Tokenizer, batch_size: int, device: torch.device
) -> Iterator[tuple[int, Int64[Tensor, "n g h w"]]]:
    """Each chunk's first row and its indices, on rank 0; the ranks take the batches in turn, nothing on the others.

    A chunk is cut into batches of its own, so that a batch does not depend on where a shard ends.
    """
    chunks = slices(len(split), CHUNK_ROWS)
    batches = [
        slice(chunk.start + part.start, chunk.start + part.stop)
        for chunk in chunks
        for part in slices(chunk.stop - chunk.start, batch_size)
    ]

    def encode(images: UInt8[Tensor, "b 3 r r"]) -> Int64[Tensor, "b g h w"]:
        return tokenizer.encode(to_float(images.to(device))).cpu()

    ends = {chunk.stop: chunk.start for chunk in chunks}
    parts: list[Tensor] = []
    done = in_turns(batches, lambda rows: split.images(rows.start, rows.stop), encode)
    for rows, part in zip(batches, done, strict=is_main()):
        parts.append(part)
        if rows.stop in ends:
            yield ends[rows.stop], torch.cat(parts)
            parts = []


def codes_table(
    ids: Sequence[str], split: str, labels: Int64[np.ndarray, " n"], indices: Int64[Tensor, "n g h w"]
) -> pa.Table:
    """Rows of the `codes` table; a label of -1 is none."""
    flat = indices.flatten(1).to(torch.int32).numpy()
    offsets = np.arange(0, flat.size + 1, flat.shape[1], dtype=np.int32)
    return pa.table(
        {
            "image_id": list(ids), "split": [split] * len(flat),
            "label": pa.array(np.asarray(labels).astype(np.int32)),
            "indices": pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat.reshape(-1))),
        },
        schema=schema_of(CODES),
    )  # fmt: skip
