"""Images as indices: order, batches and ranks do not matter, and what is read is what was written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import CLASSES, write_dataset
from vqpipe.artifacts.publish import file_digest
from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.errors import ArtifactError
from vqpipe.tokenizers import tokens as room
from vqpipe.tokenizers.tokens import TokenSet, TokensParams, write_tokens

CPU = torch.device("cpu")
NUM_IMAGES = {"train": 11, "validation": 3, "test": 5}


class Lightness:
    """Two groups on a 2 x 4 grid: the cell's lightness in 8 steps, and in 4."""

    groups, num_codes, grid, resolution = 2, (8, 4), (2, 4), 16
    config = SimpleNamespace(quantizer=SimpleNamespace(kind="lightness"))

    def encode(self, images: Tensor) -> Tensor:
        cells = torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), self.grid)[:, 0]
        return torch.stack([((cells + 1) / 2 * k).floor().clamp(0, k - 1).long() for k in self.num_codes], 1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("tokens"), NUM_IMAGES)


def write(dataset: Path, out: Path, batch_size: int = 4) -> dict[str, Any]:
    return write_tokens(dataset, Lightness(), out, TokensParams(batch_size=batch_size), CPU)  # type: ignore[arg-type]


def test_what_is_read_is_what_was_encoded(dataset: Path, tmp_path: Path) -> None:
    write(dataset, tmp_path / "tokens")
    tokens = TokenSet.open(tmp_path / "tokens")
    assert (tokens.groups, tokens.num_codes, tokens.grid, tokens.classes) == (2, (8, 4), (2, 4), CLASSES)
    for name, count in NUM_IMAGES.items():
        split, images = tokens.split(name), ImageSplit.open(dataset, name, 16)
        assert len(split) == count
        assert split.ids == images.ids
        assert split.labels.tolist() == images.labels.tolist()
        assert set(split.labels.tolist()) == {0, 1}
        assert split.indices.shape == (count, 2, 2, 4)
        assert split.indices.dtype == torch.int32
        assert torch.equal(split.indices.long(), Lightness().encode(to_float(images.images(0, count))))
    assert tokens.split("train").indices[:, 0].unique().numel() > 3


def test_batches_change_no_bytes(dataset: Path, tmp_path: Path) -> None:
    write(dataset, tmp_path / "whole", batch_size=64)
    write(dataset, tmp_path / "small", batch_size=2)
    names = ["manifest.json", *(f"{name}-00000.parquet" for name in NUM_IMAGES)]
    digests = [file_digest(tmp_path / "whole" / name) for name in names]
    assert digests == [file_digest(tmp_path / "small" / name) for name in names]


def test_chunks_join_without_a_seam(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(dataset, tmp_path / "one")
    monkeypatch.setattr(room, "CHUNK_ROWS", 4)
    write(dataset, tmp_path / "many")
    one, many = (TokenSet.open(tmp_path / name).split("train") for name in ("one", "many"))
    assert one.ids == many.ids
    assert torch.equal(one.indices, many.indices)


def test_a_split_that_is_not_there_is_named(dataset: Path, tmp_path: Path) -> None:
    write(dataset, tmp_path / "tokens")
    with pytest.raises(ArtifactError, match="no split holdout"):
        TokenSet.open(tmp_path / "tokens").split("holdout")
    with pytest.raises(ArtifactError, match="dvc repro tokens@lc"):
        TokenSet.open(tmp_path / "lc")
    with pytest.raises(ArtifactError, match=r"does not exist.*\n  choices: .*lc"):
        TokenSet.open(tmp_path / "nothing")


def test_images_without_classes_have_label_minus_one(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, {"train": 2, "validation": 1, "test": 1}, classes="none")
    write(dataset, tmp_path / "tokens")
    tokens = TokenSet.open(tmp_path / "tokens")
    assert tokens.classes == ()
    assert tokens.split("train").labels.tolist() == [-1, -1]
