"""`vqpipe tokenize` and `vqpipe detokenize`: what is written, what is left out and why, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

import vqpipe.library.tokens as module
from tests.tiny import picture, write_tokenizer
from vqpipe import Tokenizer
from vqpipe.artifacts.publish import file_digest, read_manifest
from vqpipe.artifacts.specs.dataset import QUARANTINE
from vqpipe.artifacts.specs.exported import DECODED
from vqpipe.artifacts.specs.tokens import CODES
from vqpipe.artifacts.tables import read_header, read_table, stream_table, to_table, write_table
from vqpipe.cli.app import app
from vqpipe.errors import ArtifactError, DataError, MismatchError, ParamsError
from vqpipe.library.tokens import detokenize, tokenize
from vqpipe.tokenizers.identity import tokenizer_digest


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    monkeypatch.setenv("VQPIPE_DEVICE", "cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images in three formats and two folders, and six files that are none."""
    root = tmp_path / "photos"
    (root / "deep/er").mkdir(parents=True)
    for index, name in enumerate(
        ["a.png", "a.jpg", "b.webp", "deep/c.PNG", "deep/er/d.jpeg", "deep/er/e.png"]
    ):
        picture(index, bool(index % 2)).resize((20 + index, 17)).save(root / name)
    Image.new("RGBA", (16, 40), (9, 9, 9, 0)).save(root / "z.png")
    (root / "broken.png").write_bytes((root / "a.png").read_bytes()[:60])
    (root / "text.jpg").write_text("not an image")
    (root / "empty.webp").write_bytes(b"")
    (root / "notes.txt").write_text("hello")
    (root / "gone.png").symlink_to(root / "nowhere.png")
    (root / ".hidden.png").write_text("passed over")
    return root


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(write_tokenizer(tmp_path / "vq"))


def test_the_commands_there_and_back(photos: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    out, again = tmp_path / "photos.parquet", tmp_path / "again"
    options = ["--tokenizer", str(tmp_path / "vq"), "--batch-size", "3"]
    done = CliRunner().invoke(app, ["tokenize", str(photos), *options, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "7 images, 1 x 4 x 4 indices each, of 16 codes" in done.output
    assert (
        "left out: 6 files (empty_file 1, hidden 1, missing_file 1, other_file 1, truncated 1, undecodable 1)"
        in done.output
    )
    table = read_table(out, CODES)
    ids = ["a.jpg", "a.png", "b.webp", "z.png", "deep/c.PNG", "deep/er/d.jpeg", "deep/er/e.png"]
    assert table["image_id"].to_pylist() == ids
    assert table["indices"].type == pa.list_(pa.int32())
    facts = read_header(out).facts
    assert facts["shape"] == [1, 4, 4]
    assert facts["tokenizer"] == {"quantizer": "vq", "sha256": tokenizer_digest(tokenizer)}
    expected = tokenizer.encode(tokenizer.preprocess([Image.open(photos / name) for name in ids]))
    assert np.array_equal(np.array(table["indices"].to_pylist()), expected.flatten(1).numpy())
    done = CliRunner().invoke(app, ["detokenize", str(out), *options, "--out", str(again)])
    assert done.exit_code == 0, done.output
    found = sorted(path.relative_to(again).as_posix() for path in again.rglob("*.png"))
    files = ["a.jpg.png", "a.png", "b.webp.png", "z.png", "deep/c.PNG", "deep/er/d.jpeg.png", "deep/er/e.png"]
    assert found == sorted(name for name in files if name != "deep/c.PNG")
    for name, image in zip(files, tokenizer.to_pil(tokenizer.decode(expected)), strict=True):
        assert np.array_equal(np.array(Image.open(again / name)), np.array(image))
    assert read_manifest(again, DECODED).facts["images"] == 7


def test_what_was_left_out_is_listed_with_its_reason(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    done = tokenize(photos, tokenizer, tmp_path / "t.parquet", 4)
    assert done.quarantine == tmp_path / "t.quarantine.parquet"
    rows = {row["item"]: row["reason"] for row in read_table(done.quarantine, QUARANTINE).to_pylist()}
    assert rows == {
        "broken.png": "truncated", "text.jpg": "undecodable", "empty.webp": "empty_file", "notes.txt": "other_file",
        "gone.png": "missing_file", ".hidden.png": "hidden",
    }  # fmt: skip
    assert read_header(done.quarantine).facts == {"images": 7, "left_out": done.left_out}


@pytest.mark.slow
def test_bytes_depend_on_neither_processes_nor_chunks(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize(photos, tokenizer, tmp_path / "one.parquet", 3)
    tokenizer.save_pretrained(tmp_path / "hub")  # another file of the same weights is the same tokenizer
    monkeypatch.setenv("VQPIPE_WORKERS", "2")
    tokenize(photos, Tokenizer.from_pretrained(tmp_path / "hub"), tmp_path / "two.parquet", 3)
    assert file_digest(tmp_path / "one.parquet") == file_digest(tmp_path / "two.parquet")
    monkeypatch.setattr(module, "CHUNK_ROWS", 2)
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    tokenize(photos, tokenizer, tmp_path / "small.parquet", 1)
    assert read_table(tmp_path / "small.parquet", CODES).equals(read_table(tmp_path / "one.parquet", CODES))
    assert pa.parquet.ParquetFile(tmp_path / "small.parquet").num_row_groups == 4


def test_another_resolution_gives_another_grid(photos: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenize(photos, tokenizer, tmp_path / "t.parquet", 4, resolution=24)
    assert read_header(tmp_path / "t.parquet").facts["shape"] == [1, 6, 6]
    assert detokenize(tmp_path / "t.parquet", tokenizer, tmp_path / "again", 2) == 7
    assert Image.open(tmp_path / "again/a.jpg.png").size == (24, 24)
    with pytest.raises(ParamsError, match=r"resolution 18\n.*multiple of 4"):
        tokenize(photos, tokenizer, tmp_path / "u.parquet", 4, resolution=18)
    with pytest.raises(ParamsError, match=r"ends in \.parquet"):
        tokenize(photos, tokenizer, tmp_path / "tokens", 4)


def test_names_that_are_no_text_stay_apart(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    for name in (b"\xff.png", b"\\udcff.png", b"b.png"):
        with open(bytes(tmp_path / "odd") + b"/" + name, "wb") as stream:
            picture(0, True).save(stream, "PNG")
    done = tokenize(tmp_path / "odd", tokenizer, tmp_path / "t.parquet", 4)
    assert done.left_out == {"duplicate_id": 1}
    assert sorted(read_table(tmp_path / "t.parquet", CODES)["image_id"].to_pylist()) == [
        "\\udcff.png",
        "b.png",
    ]


def test_a_folder_without_images_publishes_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.txt").write_text("")
    with pytest.raises(DataError, match=r"no usable image\n  found:    1 \.txt files \(such as a\.txt\)"):
        tokenize(tmp_path / "none", tokenizer, tmp_path / "t.parquet", 4)
    with pytest.raises(DataError, match="not a folder"):
        tokenize(tmp_path / "nowhere", tokenizer, tmp_path / "t.parquet", 4)
    assert not list(tmp_path.glob("*.parquet"))
    assert not list(tmp_path.glob(".*partial*"))


def test_tokens_of_another_tokenizer_are_refused_naming_both(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenize(photos, tokenizer, tmp_path / "t.parquet", 4)
    other = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "other", seed=1))
    with pytest.raises(MismatchError) as caught:
        detokenize(tmp_path / "t.parquet", other, tmp_path / "again", 4)
    assert tokenizer_digest(tokenizer)[:12] in str(caught.value)
    assert tokenizer_digest(other)[:12] in str(caught.value)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("../a", 16)], "leads out of the folder"),
        ([("/a", 16)], "leads out of the folder"),
        ([("a", 16), ("a", 16)], "occurs twice"),
        ([("a", 15)], "does not have the shape"),
    ],
)
def test_rows_that_cannot_be_are_refused(
    rows: list[tuple[str, int]], message: str, photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenize(photos, tokenizer, tmp_path / "t.parquet", 4)
    content = [
        {"image_id": name, "split": "images", "label": -1, "indices": [0] * count} for name, count in rows
    ]
    facts = read_header(tmp_path / "t.parquet").facts
    with stream_table(tmp_path / "bad.parquet", CODES, facts) as append:
        append(to_table(CODES, content))
    with pytest.raises(ArtifactError, match=message):
        detokenize(tmp_path / "bad.parquet", tokenizer, tmp_path / "again", 4)
    assert not (tmp_path / "again").exists()


def test_other_files_and_folders_are_refused(photos: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    done = tokenize(photos, tokenizer, tmp_path / "t.parquet", 4)
    with pytest.raises(ArtifactError, match="quarantine v1"):
        detokenize(done.quarantine, tokenizer, tmp_path / "again", 4)
    write_table(tmp_path / "shard.parquet", CODES, read_table(tmp_path / "t.parquet", CODES))
    with pytest.raises(ArtifactError, match="a shard of the tokens stage"):
        detokenize(tmp_path / "shard.parquet", tokenizer, tmp_path / "again", 4)
    with pytest.raises(ArtifactError, match="not a file"):
        detokenize(tmp_path / "none.parquet", tokenizer, tmp_path / "again", 4)
    with pytest.raises(ArtifactError, match="would be lost"):
        detokenize(tmp_path / "t.parquet", tokenizer, photos, 4)
    assert (photos / "a.png").exists()
    detokenize(tmp_path / "t.parquet", tokenizer, tmp_path / "again", 4)
    (tmp_path / "again/sub").mkdir(exist_ok=True)
    (tmp_path / "again/sub/mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"would be lost\n.*sub"):
        detokenize(tmp_path / "t.parquet", tokenizer, tmp_path / "again", 4)
    done.quarantine.write_text("mine")
    with pytest.raises(
        ArtifactError, match=r"quarantine\.parquet contains something else, which would be lost"
    ):
        tokenize(photos, tokenizer, tmp_path / "t.parquet", 4)
    with pytest.raises(ArtifactError, match="is a published folder"):
        tokenize(photos, tokenizer, tmp_path / "again/t.parquet", 4)


def test_every_name_that_a_picture_may_have_is_safe_in_the_outputs(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    long, folder = "a_small_red_boat_" * 14 + "_by_the_dawn.jpg", "é" * 127
    names = [long.encode(), b"a.png", b"A.PNG", b"a.jpg", b"new\nline.png", b"\xff" * 251 + b".png",
             "é.png".encode(), "e\u0301.png".encode(), f"{folder}/x.png".encode()]  # fmt: skip
    assert max(map(len, names[:8])) == 255
    (tmp_path / "odd" / folder).mkdir(parents=True)
    for name in names:
        with open(bytes(tmp_path / "odd") + b"/" + name, "wb") as stream:
            picture(0, True).save(stream, "PNG")
    out = tmp_path / ("t" * 247 + ".parquet")
    done = tokenize(tmp_path / "odd", tokenizer, out, 4)
    assert (done.images, done.left_out) == (len(names), {})
    assert read_header(done.quarantine).facts["images"] == len(names)
    assert done.quarantine.name.endswith(".quarantine.parquet")
    again = tmp_path / ("o" * 255)
    assert detokenize(out, tokenizer, again, 4) == len(names)
    manifest = read_manifest(again, DECODED)
    ids = set(read_table(out, CODES)["image_id"].to_pylist())
    renamed = manifest.facts["renamed"]
    assert set(renamed.values()) == {long, "\\udcff" * 251 + ".png"}
    assert set(manifest.files) == set(renamed) | {
        image_id if image_id.lower().endswith(".png") else f"{image_id}.png"
        for image_id in ids - set(renamed.values())
    }
    assert all(name.startswith(long[:200]) or name.startswith("\\udcff") for name in renamed)


def test_an_image_whose_name_is_taken_gets_one_more_ending(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    for name in ("a.jpg", "a.jpg.png"):
        picture(0, True).save(tmp_path / "odd" / name, "PNG")
    tokenize(tmp_path / "odd", tokenizer, tmp_path / "t.parquet", 4)
    assert detokenize(tmp_path / "t.parquet", tokenizer, tmp_path / "again", 4) == 2
    manifest = read_manifest(tmp_path / "again", DECODED)
    assert set(manifest.files) == {"a.jpg.png", "a.jpg.png.png"}
    assert manifest.facts["renamed"] == {"a.jpg.png.png": "a.jpg.png"}


def test_a_file_and_a_folder_of_one_name_are_refused(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (photos / "a.jpg.png").mkdir()
    picture(0, True).save(photos / "a.jpg.png/b.png")
    tokenize(photos, tokenizer, tmp_path / "t.parquet", 4)
    with pytest.raises(ArtifactError, match=r"a file and a folder(.|\n)*a\.jpg\.png/b\.png"):
        detokenize(tmp_path / "t.parquet", tokenizer, tmp_path / "again", 4)
    assert not (tmp_path / "again").exists()


def test_an_output_that_is_no_text_is_refused_before_work(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(ParamsError, match="valid UTF-8"):
        tokenize(photos, tokenizer, tmp_path / "caf\udce9.parquet", 4)
