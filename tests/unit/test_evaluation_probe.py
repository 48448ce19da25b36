"""The linear probe: it reads what is in the codes, from cells of the latent, and nothing that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests import tiny
from vqpipe.errors import DataError, MismatchError
from vqpipe.evaluation.probe import ProbeParams, linear_probe

COUNTS = {"train": 24, "validation": 8, "test": 16}
CONFIG = ProbeParams(cells=2, strengths=(0.1, 1.0), num_bootstrap=100, seed=0)


class Brightness:
    """A tokenizer of 4 x 4 tokens whose codes are levels of brightness; `blind` ones give every image the same."""

    resolution, device, grid = 16, torch.device("cpu"), (4, 4)

    def __init__(self, blind: bool) -> None:
        self.quantizer, self._blind = self, blind

    def encode(self, images: Tensor) -> Tensor:
        means = F.avg_pool2d(images, 4).mean(1, keepdim=True)
        return ((means * (not self._blind) + 1) * 8).long()

    def decode(self, indices: Tensor) -> Tensor:
        return torch.cat([indices / 8.0, -indices / 4.0], 1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_dataset(tmp_path_factory.mktemp("probe"), COUNTS)


def test_classes_that_the_codes_show_are_read(dataset: Path) -> None:
    found = linear_probe(Brightness(blind=False), dataset, CONFIG, batch_size=5)  # type: ignore[arg-type]
    assert found.accuracy.mean == 1.0
    assert (found.accuracy.low, found.accuracy.high) == (1.0, 1.0)
    assert (found.chance, found.num_classes, found.dim) == (0.5, 2, 2 * 2 * 2)
    assert found == linear_probe(Brightness(blind=False), dataset, CONFIG)  # type: ignore[arg-type]


def test_codes_without_the_class_are_read_at_chance(dataset: Path) -> None:
    found = linear_probe(Brightness(blind=True), dataset, CONFIG)  # type: ignore[arg-type]
    assert found.accuracy.mean == found.chance == 0.5
    assert found.accuracy.low < 0.5 < found.accuracy.high


def test_more_cells_than_tokens_are_refused(dataset: Path) -> None:
    config = CONFIG.model_copy(update={"cells": 5})
    with pytest.raises(MismatchError, match=r"(?s)found: +5.*at most 4"):
        linear_probe(Brightness(blind=False), dataset, config)  # type: ignore[arg-type]


def test_images_without_a_class_are_refused(tmp_path: Path) -> None:
    dataset = tiny.write_dataset(tmp_path, {"train": 2, "validation": 1, "test": 1}, classes="none")
    with pytest.raises(DataError, match="no image of the train split has a class"):
        linear_probe(Brightness(blind=False), dataset, CONFIG)  # type: ignore[arg-type]
