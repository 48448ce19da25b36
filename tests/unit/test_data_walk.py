"""One walker for every command: which files there are, in which order, and why the others are left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vqpipe.data.walk as module
from tests.tiny import write_tokenizer
from vqpipe.data.adapters.image_folder import IMAGE_FOLDER
from vqpipe.data.captions import printable
from vqpipe.data.records import Bad, Record
from vqpipe.data.walk import Walk, counts, images_below
from vqpipe.errors import DataError
from vqpipe.evaluation.evaluate import read_folder
from vqpipe.library.tokens import tokenize
from vqpipe.params.base import validate
from vqpipe.params.dataset import ImageFolderSource
from vqpipe.tokenizers.tokenizer import Tokenizer

MAX_PIXELS = 1 << 20


def draw(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        with open(path, "wb") as stream:
            Image.fromarray(pixels).save(stream, "PNG")


def names(root: Path) -> list[str]:
    return [printable(entry) for entry in images_below(root) if isinstance(entry, str)]


def reasons(root: Path) -> dict[str, str]:
    return {entry.item: entry.reason for entry in images_below(root) if isinstance(entry, Bad)}


def source(root: Path, **changes: Any) -> ImageFolderSource:
    content = {
        "kind": "image_folder", "path": str(root), "splits": {"train": "."},
        "holdout": {"validation": 0.3, "test": 0.3, "seed": 0}, "classes": "none", "templates": ["a photo"],
    }  # fmt: skip
    return validate({**content, **changes}, "dataset.source", ImageFolderSource)


def loaded(given: ImageFolderSource) -> Iterator[tuple[str, Record | Bad]]:
    plan = IMAGE_FOLDER.plan(given, MAX_PIXELS)
    for chunk in plan.chunks:
        for entry in IMAGE_FOLDER.load(given, chunk, MAX_PIXELS):
            yield chunk.split, entry
    yield from plan.bad


def test_files_of_a_folder_come_before_its_folders_each_by_name(tmp_path: Path) -> None:
    draw(
        *(
            tmp_path / n
            for n in ("b.PNG", "a.jfif", "a/z.jpe", "B.jpg", "a/b/c.Jpeg", "é.webp", "0/x.png", "c.tiff")
        )
    )
    assert names(tmp_path) == [
        "B.jpg",
        "a.jfif",
        "b.PNG",
        "c.tiff",
        "é.webp",
        "0/x.png",
        "a/z.jpe",
        "a/b/c.Jpeg",
    ]
    assert reasons(tmp_path) == {}


def test_what_is_no_image_is_noted_with_its_reason(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", tmp_path / ".hidden.png", tmp_path / ".cache/b.png", tmp_path / "._a.png")
    (tmp_path / "notes.heic").write_text("x")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert names(tmp_path) == ["a.png"]
    assert reasons(tmp_path) == {
        ".hidden.png": "hidden", ".cache": "hidden", "._a.png": "hidden", "notes.heic": "other_file",
        "gone.png": "missing_file", "self.png": "missing_file", "pipe.png": "special_file",
    }  # fmt: skip
    assert counts(e for e in images_below(tmp_path) if isinstance(e, Bad))["hidden"] == 3


def test_folders_that_link_to_each_other_are_each_listed_once(tmp_path: Path) -> None:
    draw(*(tmp_path / f"{kind}/{i}.png" for kind in ("birds", "boats") for i in range(3)))
    (tmp_path / "birds/also").symlink_to("../boats")
    (tmp_path / "boats/also").symlink_to("../birds")
    (tmp_path / "boats/up").symlink_to("..")
    assert names(tmp_path) == [f"{kind}/{i}.png" for kind in ("birds", "boats") for i in range(3)]
    assert reasons(tmp_path) == dict.fromkeys(("birds/also", "boats/also", "boats/up"), "duplicate_path")
    splits: dict[str, set[str]] = {}
    for split, entry in loaded(source(tmp_path)):
        if isinstance(entry, Record):
            splits.setdefault(split, set()).add(entry.image_id)
    assert sorted(image for own in splits.values() for image in own) == sorted(names(tmp_path))


def test_an_image_of_two_splits_is_in_the_one_that_has_it_without_a_link(tmp_path: Path) -> None:
    draw(tmp_path / "train/a.png", tmp_path / "val/b.png", tmp_path / "test/c.png")
    (tmp_path / "train/all").symlink_to("../val")
    (tmp_path / "train/c.png").symlink_to("../test/c.png")
    given = source(
        tmp_path, splits={"train": "train", "validation": "val", "test": "test"},
        holdout={"validation": 0, "test": 0, "seed": 0},
    )  # fmt: skip
    found = list(loaded(given))
    images = [(split, entry.image_id) for split, entry in found if isinstance(entry, Record)]
    assert sorted(images) == [("test", "test/c.png"), ("train", "train/a.png"), ("validation", "val/b.png")]
    bad = {(split, entry.item): entry.reason for split, entry in found if isinstance(entry, Bad)}
    assert bad == {("train", "train/all"): "duplicate_path", ("train", "train/c.png"): "duplicate_path"}


def test_links_are_followed_out_of_the_source_and_count_once(tmp_path: Path) -> None:
    draw(tmp_path / "out/one.png", tmp_path / "out/deep/two.png", tmp_path / "in/a.png", tmp_path / "one.png")
    (tmp_path / "in/x").symlink_to("../out")
    (tmp_path / "in/y").symlink_to("../out")
    (tmp_path / "in/b.png").symlink_to("../one.png")
    (tmp_path / "in/c.png").symlink_to("../one.png")
    os.link(tmp_path / "in/a.png", tmp_path / "in/hard.png")
    assert names(tmp_path / "in") == ["a.png", "b.png", "x/one.png", "x/deep/two.png"]
    assert reasons(tmp_path / "in") == dict.fromkeys(("c.png", "hard.png", "y"), "duplicate_path")


def test_a_walk_may_be_repeated(tmp_path: Path) -> None:
    draw(tmp_path / "a/1.png", tmp_path / "b/2.png")
    (tmp_path / "c").symlink_to("a")
    walk = Walk(tmp_path)
    assert list(walk) == list(walk)
    assert [e for e in walk if isinstance(e, str)] == ["a/1.png", "b/2.png"]


def test_what_cannot_be_listed_or_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png", tmp_path / "shut/b.png", tmp_path / "locked.png")
    scan, read = os.scandir, Path.read_bytes

    def refuse(path: Any) -> Any:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    def unreadable(path: Path) -> bytes:
        if path.name == "locked.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(module.os, "scandir", refuse)
    monkeypatch.setattr(Path, "read_bytes", unreadable)
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    assert reasons(tmp_path) == {"shut": "unreadable"}
    images, left_out = read_folder(tmp_path, 16)
    assert (images.ids, left_out) == (["a.png"], {"unreadable": 2})


def test_names_of_any_bytes_are_listed(tmp_path: Path) -> None:
    for name in (
        b"a\nb.png",
        b"\x1b[31m.png",
        b"\xff\xfe.png",
        "e\u0301.png".encode(),
        "\u00e9.png".encode(),
        b"A.png",
    ):
        draw(Path(os.fsdecode(bytes(tmp_path) + b"/" + name)))
    assert len(names(tmp_path)) == len(set(names(tmp_path))) == 6
    assert "\\udcff\\udcfe.png" in names(tmp_path)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    root = tmp_path / "odd"
    draw(root / "b.PNG", root / "a.jpg", root / "deep/c.png", root / ".d.png", root / "é/f.webp")
    (root / "notes.txt").write_text("x")
    (root / "cut.png").write_bytes((root / "a.jpg").read_bytes()[:80])
    (root / "empty.png").write_bytes(b"")
    (root / "loop").symlink_to(".")
    (root / "same.png").symlink_to("a.jpg")
    (root / "gone.png").symlink_to("nowhere")
    return root


def test_all_commands_take_the_same_files_for_the_same_reasons(odd: Path, tmp_path: Path) -> None:
    expected = ["a.jpg", "b.PNG", "deep/c.png", "é/f.webp"]
    left_out = {
        "duplicate_path": 2, "empty_file": 1, "hidden": 1, "missing_file": 1, "other_file": 1, "truncated": 1,
    }  # fmt: skip
    images, evaluated = read_folder(odd, 16)
    assert (images.ids, evaluated) == (expected, left_out)
    tokenizer = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "vq"))
    tokens = tokenize(odd, tokenizer, tmp_path / "t.parquet", 4)
    assert (tokens.images, tokens.left_out) == (4, left_out)
    found = [
        entry for _, entry in loaded(source(odd, holdout={"validation": 0.001, "test": 0.001, "seed": 0}))
    ]
    assert [entry.image_id for entry in found if isinstance(entry, Record)] == expected
    assert counts(entry for entry in found if isinstance(entry, Bad)) == left_out


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.heic", "b.heic", "c.txt", ".d.png"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path, 16)
    for part in ("2 .heic files (such as a.heic)", "1 .txt files", "1 hidden", ".png", "run:"):
        assert part in str(caught.value)
