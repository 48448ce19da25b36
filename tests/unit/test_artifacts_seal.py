"""Checksums: a changed bit in any kind of file is found when the file is read."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vqpipe.artifacts import intact
from vqpipe.artifacts.intact import need_intact
from vqpipe.artifacts.publish import (
    MANIFEST,
    publish_folder,
    publish_json,
    publish_sealed,
    publish_text,
    read_manifest,
)
from vqpipe.artifacts.seal import (
    MARK,
    SEAL,
    UNSEALED,
    check_seal,
    read_sealed_json,
    sealed_text,
)
from vqpipe.artifacts.spec import FolderSpec, TableSpec, TensorSpec
from vqpipe.artifacts.tables import iter_batches, read_table, stream_table, to_table, write_table
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.errors import ArtifactError

WORDS = TableSpec("words-test", 4, {"word": "string", "count": "int64"}, stage="counting")
PAIR = TensorSpec("pair-test", 1, {"a": "F32"}, stage="pairing")
BOX = FolderSpec("box-test", 1, stage="boxes")
FLIPS = 200


def rows(seed: int = 0) -> list[dict[str, object]]:
    """As many bytes in the file for every seed."""
    return [{"word": f"word {at}", "count": seed * 100 + at} for at in range(10)]


def fill(folder: Path, seed: int = 0) -> Path:
    with publish_folder(folder, BOX, {"n": seed}) as partial:
        for shard in range(2):
            write_table(partial / f"w-{shard}.parquet", WORDS, to_table(WORDS, rows(2 * seed + shard)))
        write_tensors(partial / "p.safetensors", PAIR, {"a": torch.arange(6.0) + seed})
    return folder


def manifest(folder: Path) -> tuple[Path, Callable[[], object]]:
    fill(folder)
    return folder / MANIFEST, lambda: read_manifest(folder, BOX)


def table_of_a_folder(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = fill(folder) / "w-0.parquet"
    return path, lambda: read_table(path, WORDS)


def tensors_of_a_folder(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = fill(folder) / "p.safetensors"
    return path, lambda: read_tensors(path, PAIR)


def table(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "w.parquet"
    with stream_table(path, WORDS) as append:
        append(to_table(WORDS, rows()))
    return path, lambda: list(iter_batches(path, WORDS))


def tensors(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "p.safetensors"
    path.parent.mkdir(parents=True)
    write_tensors(path, PAIR, {"a": torch.arange(6.0)}, sealed=True)
    return path, lambda: read_tensors(path, PAIR)


def sealed_json(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "m.json"
    publish_sealed(path, {"psnr": 21.25, "text": "é", "parts": {"one": [1, 2]}})
    return path, lambda: read_sealed_json(path)


KINDS = (manifest, table_of_a_folder, tensors_of_a_folder, table, tensors, sealed_json)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_anywhere_is_found(
    tmp_path: Path, kind: Callable[[Path], tuple[Path, Callable[[], object]]]
) -> None:
    path, read = kind(tmp_path / "box")
    read()
    content, drawn = path.read_bytes(), random.Random(0)
    for _ in range(FLIPS):
        at, bit = drawn.randrange(len(content)), drawn.randrange(8)
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        with pytest.raises(ArtifactError):
            read()
    path.write_bytes(content)
    read()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["cut", "longer", "empty"])
def test_a_file_of_another_length_is_found(
    tmp_path: Path, kind: Callable[[Path], tuple[Path, Callable[[], object]]], change: str
) -> None:
    path, read = kind(tmp_path / "box")
    content = path.read_bytes()
    changed = {"cut": content[: len(content) // 2], "longer": content + b" ", "empty": b""}
    path.write_bytes(changed[change])
    with pytest.raises(ArtifactError):
        read()


@pytest.mark.parametrize("name", ["w-0.parquet", "p.safetensors", MANIFEST])
def test_a_file_of_another_artifact_of_the_same_spec_is_found(tmp_path: Path, name: str) -> None:
    one, two = fill(tmp_path / "one", 1), fill(tmp_path / "two", 2)
    (one / name).write_bytes((two / name).read_bytes())

    def read() -> None:
        read_table(one / "w-0.parquet", WORDS)
        read_tensors(one / "p.safetensors", PAIR)

    with pytest.raises(ArtifactError, match=r"(?s)is damaged.*found: +SHA-256.*expected: +SHA-256"):
        read()


def test_two_shards_that_changed_places_are_found(tmp_path: Path) -> None:
    folder = fill(tmp_path / "box")
    first, second = (folder / f"w-{shard}.parquet" for shard in range(2))
    contents = first.read_bytes(), second.read_bytes()
    assert len(contents[0]) == len(contents[1])
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    for path in (first, second):
        with pytest.raises(ArtifactError, match="is damaged"):
            read_table(path, WORDS)


def test_a_large_file_is_compared_once_per_process_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fill(tmp_path / "box") / "w-0.parquet"
    compared = []
    digest = intact.file_digest
    monkeypatch.setattr(intact, "file_digest", lambda path: compared.append(path) or digest(path))

    def read_twice() -> int:
        compared.clear()
        for _ in range(2):
            need_intact(path)
        return len(compared)

    assert read_twice() == 2, "a small file is compared at every read"
    monkeypatch.setattr(intact, "SMALL", 10)
    need_intact(path)
    assert read_twice() == 0
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert read_twice() == 1
    content = path.read_bytes()
    path.write_bytes(b"x" + content[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 2))
    for _ in range(2):
        with pytest.raises(ArtifactError, match="is damaged"):
            need_intact(path)
    fill(tmp_path / "box", 1)
    assert read_twice() == 1, "the folder was replaced"


def test_a_large_sealed_file_is_compared_once_per_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, read = table(tmp_path / "box")
    compared = []
    check = intact.check_seal
    monkeypatch.setattr(intact, "check_seal", lambda *given: compared.append(given) or check(*given))
    monkeypatch.setattr(intact, "SMALL", 10)
    read()
    read()
    assert len(compared) == 1


def test_sealed_json_is_read_without_its_seal_and_equal_content_has_equal_bytes(tmp_path: Path) -> None:
    content = {"b": 1, "a": [2.5, "é"]}
    for name in ("one.json", "two.json"):
        publish_sealed(tmp_path / name, content)
    assert read_sealed_json(tmp_path / "one.json") == content
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_seal_may_have_more_behind_it(tmp_path: Path) -> None:
    text = f'{{"{SEAL}": "{UNSEALED} tokenizer:0123456789abcdef", "x": 1}}'
    publish_text(tmp_path / "m.json", sealed_text(text))
    assert read_sealed_json(tmp_path / "m.json") == {"x": 1}
    publish_text(tmp_path / "m.json", sealed_text(text).replace("0123", "4567"))
    with pytest.raises(ArtifactError, match="is damaged"):
        read_sealed_json(tmp_path / "m.json")


@pytest.mark.parametrize("content", [{}, {SEAL: ""}, {SEAL: MARK}, {SEAL: UNSEALED, "more": UNSEALED}])
def test_json_without_one_whole_seal_is_refused(tmp_path: Path, content: dict[str, str]) -> None:
    publish_json(tmp_path / "m.json", content)
    with pytest.raises(ArtifactError, match=r"(?s)carries no checksum.*run: +make it"):
        read_sealed_json(tmp_path / "m.json", "make it")


def test_a_file_of_a_kind_without_seals_carries_none(tmp_path: Path) -> None:
    publish_text(tmp_path / "a.txt", UNSEALED)
    with pytest.raises(ArtifactError, match=r"(?s)carries no checksum.*run: +make it"):
        check_seal(tmp_path / "a.txt", "make it")
