"""Atomic publishing: a reader sees a whole output or none.

A file is written beside its final name, synced and renamed. A folder is written under a hidden name, gets its
manifest last, and is renamed; a folder without a valid manifest does not exist for readers.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqpipe.artifacts.spec import FolderSpec, Header, check_header, header_for, maker, missing
from vqpipe.errors import ArtifactError

MANIFEST = "manifest.json"
MAX_NAME = 255
"""Bytes that a file name may have on the usual file systems."""


def fit_name(stem: str, ending: str) -> str:
    """`stem + ending` as a file name; where that is too long, the stem's beginning and 12 digits of its hash."""
    raw, room = os.fsencode(stem), MAX_NAME - len(os.fsencode(ending))
    if len(raw) <= room:
        return stem + ending
    return f"{raw[: room - 13].decode('utf-8', 'ignore')}~{hashlib.sha256(raw).hexdigest()[:12]}{ending}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(path: Path) -> str:
    """SHA-256 over a file, or over the names and contents of a folder's files.

    A file that cannot be read counts by its name and the error.
    A published folder is identified by its manifest, which holds its files' hashes, without reading them again.
    """
    if path.is_file():
        return file_digest(path)
    if (path / MANIFEST).is_file():
        return file_digest(path / MANIFEST)
    digest = hashlib.sha256()
    for child in sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        try:
            content = file_digest(child)
        except OSError as error:
            content = f"unreadable: {errno.errorcode.get(error.errno or 0)}"
        digest.update(os.fsencode(f"{child.relative_to(path).as_posix()}\0{content}\n"))
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_readable(path: Path) -> None:
    """Give a file the mode that the umask says; some writers make files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


@contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes `path`, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(fit_name(f".{path.name}", f".partial-{os.getpid()}"))
    try:
        yield partial
        _make_readable(partial)
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def publish_text(path: Path, text: str) -> None:
    """Publish a UTF-8 text file."""
    with publish_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def publish_json(path: Path, content: Any) -> None:
    """Publish JSON with sorted keys; NaN and infinity are refused (ValueError)."""
    publish_text(path, json.dumps(content, sort_keys=True, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Manifest:
    """What a published folder holds: its header and the size and SHA-256 of each file by relative name."""

    header: Header
    files: dict[str, dict[str, Any]]

    @property
    def facts(self) -> dict[str, Any]:
        return self.header.facts


@contextmanager
def publish_folder(path: Path, spec: FolderSpec, facts: dict[str, Any]) -> Iterator[Path]:
    """Yield a hidden folder to fill; on success write its manifest and rename it to `path`.

    `facts` may be filled while the folder is: it is read when the block ends.

    Raises:
        ArtifactError: a file that the spec requires was not written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(fit_name(f".{path.name}", f".partial-{os.getpid()}"))
    replaced = path.with_name(fit_name(f".{path.name}", f".replaced-{os.getpid()}"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        lacking = [name for name in spec.required if not (partial / name).is_file()]
        if lacking:
            raise ArtifactError(f"{path}: {spec.name} lacks {', '.join(lacking)}")
        write_manifest(partial, header_for(spec, facts))
        if path.exists():
            os.replace(path, replaced)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def write_manifest(folder: Path, header: Header) -> None:
    """Write `manifest.json` over everything that lies in `folder`."""
    files: dict[str, dict[str, Any]] = {}
    for child in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        _sync(child)
        files[child.relative_to(folder).as_posix()] = {
            "bytes": child.stat().st_size,
            "sha256": file_digest(child),
        }
    content = {**json.loads(header.to_json()), "files": files}
    publish_json(folder / MANIFEST, content)


def read_manifest(folder: Path, spec: FolderSpec | None = None) -> Manifest:
    """Read and check a published folder's manifest (names and sizes; not the hashes, which cost a full read).

    Raises:
        ArtifactError: no folder, no manifest, another spec or version, or a file that is missing or cut short.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if spec is not None:
            raise missing(folder, spec)
        raise ArtifactError(f"{folder} is not a published folder: it has no {MANIFEST}")
    text = path.read_text(encoding="utf-8", errors="replace")
    header = Header.from_json(text, path)
    if spec is not None:
        check_header(header, spec, folder)
    files = json.loads(text).get("files", {})
    if not isinstance(files, dict) or not all(isinstance(e, dict) and "bytes" in e for e in files.values()):
        raise ArtifactError(f"{path}: its list of files cannot be read", run="dvc checkout")
    for name, entry in files.items():
        child = folder / name
        if not child.is_file() or child.stat().st_size != entry["bytes"]:
            found = f"{child.stat().st_size} bytes" if child.is_file() else "no file"
            raise ArtifactError(
                f"{child}: not as its manifest says", found=found, expected=f"{entry['bytes']} bytes",
                run=f"dvc checkout, or {maker(spec)}" if spec else "dvc checkout",
            )  # fmt: skip
    return Manifest(header, files)
