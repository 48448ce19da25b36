"""Small sources of images with captions in each layout, for tests: twelve images with a caption each."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

NUM = 12
File = tuple[str, bytes | str]


def picture(seed: int, kind: str = "JPEG") -> bytes:
    """A picture of 24 x 16 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(
        buffer, kind
    )
    return buffer.getvalue()


def caption(number: int) -> str:
    """The caption of a picture; with adjectives, so that a vocabulary comes of it."""
    return f"a {('red', 'blue', 'tall')[number % 3]} boat beside a small {('tower', 'dog')[number % 2]} number {number}"


def put(root: Path, *files: File) -> Path:
    """Write files below a folder."""
    for name, data in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def put_tar(path: Path, files: Sequence[File], mode: str = "w") -> Path:
    """Write a tar of these members, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files:
            content = data if isinstance(data, bytes) else data.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def images(folder: str = "") -> list[File]:
    """The pictures below a folder: 0.jpg to 11.jpg."""
    return [(f"{folder}{number}.jpg", picture(number)) for number in range(NUM)]


def _folder(root: Path) -> None:
    put(root, *images("deep/er/"), *((f"deep/er/{n}.txt", caption(n)) for n in range(NUM)))


def _webdataset(root: Path) -> None:
    for shard in range(2):
        files: list[File] = []
        for n in range(shard * 6, shard * 6 + 6):
            files += [(f"{n:04d}.json", json.dumps({"caption": caption(n), "key": f"{n:04d}"}))]
            files += [
                (f"{n:04d}.jpg", picture(n)),
                (f"{n:04d}.txt", "another text"),
                (f"{n:04d}.cls", str(n % 3)),
            ]
        put_tar(root / f"{shard:05d}.tar", files)
        put(root, (f"{shard:05d}_stats.json", "{}"), (f"{shard:05d}.parquet", b"PAR1"))


def _metadata(root: Path) -> None:
    for at, split in enumerate(("train", "validation", "test")):
        numbers = range(at * 4, at * 4 + 4)
        put(root / split, *((f"{n}.jpg", picture(n)) for n in numbers))
        rows = [json.dumps({"file_name": f"{n}.jpg", "text": caption(n)}) for n in numbers]
        put(root / split, ("metadata.jsonl", "\n".join(rows)))


def _table(root: Path) -> None:
    put(
        root,
        *images("images/"),
        ("captions.csv", "image,caption\n" + "".join(f"{n}.jpg,{caption(n)}\n" for n in range(NUM))),
    )


def _karpathy(root: Path) -> None:
    listed = [
        {"filepath": "val2014", "filename": f"{n}.jpg", "imgid": n, "split": ("train", "restval", "val", "test")[n % 4],
         "sentences": [{"raw": caption(n), "tokens": caption(n).split()}]} for n in range(NUM)
    ]  # fmt: skip
    put(root, *images("val2014/"), ("dataset_coco.json", json.dumps({"images": listed, "dataset": "coco"})))


def _json(root: Path) -> None:
    put(
        root,
        *images("images/"),
        ("all.json", json.dumps([{"image": f"{n}.jpg", "caption": caption(n)} for n in range(NUM)])),
    )


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "folder": _folder, "webdataset": _webdataset, "metadata": _metadata, "table": _table, "karpathy": _karpathy,
    "json": _json,
}  # fmt: skip
"""Writes each layout below a folder."""
