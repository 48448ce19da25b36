"""safetensors artifacts: one metadata key, checked tensors, byte-identical, and clear about damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.spec import FolderSpec, TensorSpec
from vqpipe.artifacts.tensors import read_tensor_header, read_tensors, write_tensors
from vqpipe.errors import ArtifactError

PAIR = TensorSpec("pair-test", 1, {"a": "F32", "b": "I64"}, stage="pairing")
BOX = FolderSpec("box-test", 1, stage="pairing")
OPEN = TensorSpec("open-test", 1, {"a": "F32"}, stage="pairing", open=True)


def tensors() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


def write(path: Path, sealed: bool = True) -> Path:
    write_tensors(path, PAIR, tensors(), {"z": 1, "a": [2, 3], "m": "x"}, sealed=sealed)
    return path


def write_folder(folder: Path) -> Path:
    with publish_folder(folder, BOX, {}) as partial:
        write(partial / "p.safetensors", sealed=False)
    return folder / "p.safetensors"


@pytest.mark.parametrize("written", [write, lambda path: write_folder(path.with_suffix(""))])
def test_round_trip(tmp_path: Path, written: Callable[[Path], Path]) -> None:
    found, facts = read_tensors(written(tmp_path / "p.safetensors"), PAIR)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())
    assert facts == {"a": [2, 3], "m": "x", "z": 1}


def test_header_is_one_key_of_sorted_json(tmp_path: Path) -> None:
    raw = write(tmp_path / "p.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert list(header["__metadata__"]) == ["vqpipe"]
    text = header["__metadata__"]["vqpipe"]
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    assert (
        write(tmp_path / "one.safetensors").read_bytes() == write(tmp_path / "two.safetensors").read_bytes()
    )


def test_header_reading_loads_no_tensor(tmp_path: Path) -> None:
    header, entries = read_tensor_header(write(tmp_path / "p.safetensors"))
    assert header.spec == "pair-test"
    assert {name: (e["dtype"], e["shape"]) for name, e in entries.items()} == {
        "a": ("F32", [2, 3]),
        "b": ("I64", [2]),
    }


@pytest.mark.parametrize(
    "change",
    [{"a": torch.zeros(2, dtype=torch.float64)}, {"a": None}, {"c": torch.zeros(1)}],
    ids=["other dtype", "absent", "one too many"],
)
def test_tensors_other_than_the_spec_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None]
) -> None:
    given = {name: tensor for name, tensor in (tensors() | change).items() if tensor is not None}
    with pytest.raises(ArtifactError, match=r"not the tensors of pair-test v1"):
        write_tensors(tmp_path / "p.safetensors", PAIR, given)
    assert list(tmp_path.iterdir()) == []


def test_an_open_spec_takes_more(tmp_path: Path) -> None:
    more = {"a": torch.zeros(1), "layer.weight": torch.zeros(2, 2)}
    write_tensors(tmp_path / "o.safetensors", OPEN, more, sealed=True)
    found, _ = read_tensors(tmp_path / "o.safetensors", OPEN)
    assert set(found) == {"a", "layer.weight"}


def test_shared_and_strided_storage_is_written_plain(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    write_tensors(tmp_path / "o.safetensors", OPEN, {"a": base, "b": base, "c": base.T}, sealed=True)
    found, _ = read_tensors(tmp_path / "o.safetensors", OPEN)
    assert torch.equal(found["b"], base)
    assert torch.equal(found["c"], base.T)


def test_missing_and_other_version(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"(?s)pair-test v1.*dvc repro pairing"):
        read_tensors(tmp_path / "p.safetensors", PAIR)
    newer = TensorSpec("pair-test", 2, PAIR.tensors, stage="pairing")
    with pytest.raises(
        ArtifactError, match=r"(?s)found: +pair-test v1\n.*expected: +pair-test v2\n.*dvc repro pairing"
    ):
        read_tensors(write(tmp_path / "p.safetensors"), newer)


@pytest.mark.parametrize("cut", [0, 5, 60, -1])
def test_a_truncated_file_is_told(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "p.safetensors")
    path.write_bytes(path.read_bytes()[:cut])
    problem = (
        "carries no checksum: it is damaged"
        if cut >= 0
        else "is damaged: its content is not what was written"
    )
    with pytest.raises(ArtifactError, match=f"(?s){problem}.*download it"):
        read_tensors(path, PAIR)
    with pytest.raises(ArtifactError, match="cannot be read as safetensors"):
        read_tensor_header(path)


def test_a_foreign_file_is_told(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "f.safetensors")
    with pytest.raises(ArtifactError, match="did not write"):
        read_tensor_header(tmp_path / "f.safetensors")
    with pytest.raises(ArtifactError, match="carries no checksum"):
        read_tensors(tmp_path / "f.safetensors", PAIR)


def test_tensors_without_a_checksum_are_read_only_in_their_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="carries no checksum"):
        read_tensors(write(tmp_path / "p.safetensors", sealed=False), PAIR)
    inside = write_folder(tmp_path / "box")
    write(inside.with_name("more.safetensors"))
    with pytest.raises(ArtifactError, match=r"more\.safetensors is not in its folder's manifest"):
        read_tensors(inside.with_name("more.safetensors"), PAIR)
