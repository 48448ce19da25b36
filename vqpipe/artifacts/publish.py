"""Atomic publishing: a reader gets one whole version of an output, the old one or the new one.

A file is written under a hidden name in the same folder, synced and renamed. A folder is written under a hidden name,
gets its manifest last, and changes places with the one before in one step; a folder without a valid manifest does not
exist for readers. A process that is killed leaves its hidden names; the next one that publishes there removes them.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vqpipe.artifacts.seal import (
    MARK,
    SEAL,
    UNSEALED,
    read_sealed_json,
    sealed_text,
)
from vqpipe.artifacts.spec import FolderSpec, Header, check_header, header_for, missing, repair_command
from vqpipe.errors import ArtifactError
from vqpipe.runtime.signals import hold_signals

MANIFEST = "manifest.json"
SIDECARS = (".lineage.json", ".cost.json")
"""What the sidecars of an output add to its name."""
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
    A published folder is identified by its manifest, which contains its files' hashes, without reading them again.
    """
    if path.is_file():
        return file_digest(path)
    if (path / MANIFEST).is_file():
        return hashlib.sha256(_plain(read_sealed_json(path / MANIFEST)).encode()).hexdigest()
    digest = hashlib.sha256()
    for child in sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        try:
            content = file_digest(child)
        except OSError as error:
            content = f"unreadable: {errno.errorcode.get(error.errno or 0)}"
        digest.update(os.fsencode(f"{child.relative_to(path).as_posix()}\0{content}\n"))
    return digest.hexdigest()


def short_digest(content: Any) -> str:
    """16 hexadecimal digits of the SHA-256 over plain content, whatever the order of its keys: a name for it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _plain(content: Any) -> str:
    return json.dumps(content, sort_keys=True, indent=2, allow_nan=False) + "\n"


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


_HIDDEN = re.compile(r"\.(.+)\.(?:partial|staged|replaced)-(\d+)")
_ours: set[Path] = set()
"""Hidden names that this process is using."""


@contextmanager
def hidden(path: Path, word: str) -> Iterator[Path]:
    """Yield a free name `.NAME.WORD-PID` in the folder of `path`; what is left there at the end is removed.

    Args:
        word: `partial`, `staged` or `replaced`.
    """
    name = path.with_name(fit_name(f".{path.name}", f".{word}-{os.getpid()}"))
    remove(name)
    _ours.add(name)
    try:
        yield name
    finally:
        remove(name)
        _ours.discard(name)


def remove(path: Path) -> None:
    """Remove a file or folder where that is possible: a clean-up must not hide the error that led to it."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what processes that have ended left under hidden names in a folder, which may be absent.

    Args:
        name: of the output whose leftovers are meant; without it those of all.
    """
    with suppress(OSError):
        for child in filter(is_leftover, list(folder.iterdir())):
            own = _HIDDEN.sub(r"\1", child.name).removeprefix(".").split(".staged-")[0]
            stem, cut, _ = own.rpartition("~")
            if name is not None and own != name and not (cut and name.startswith(stem)):
                continue
            # Killed between two renames, a process leaves the only version there is.
            if ".replaced-" in child.name and (child / MANIFEST).is_file() and not (folder / own).exists():
                os.replace(child, folder / own)
            remove(child)


def is_leftover(path: Path) -> bool:
    """Whether a name is a hidden one that was left by a process that has ended."""
    found = _HIDDEN.fullmatch(path.name)
    return found is not None and path not in _ours and not _is_alive(int(found[2]))


def _is_alive(process: int) -> bool:
    """Whether a process other than this one has the number; ours are known without asking."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes `path`, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    with hidden(path, "partial") as partial:
        yield partial
        _make_readable(partial)
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)


def publish_text(path: Path, text: str) -> None:
    """Publish a UTF-8 text file."""
    with publish_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def publish_json(path: Path, content: Any) -> None:
    """Publish JSON with sorted keys; NaN and infinity are refused (ValueError)."""
    publish_text(path, _plain(content))


def publish_sealed(path: Path, content: Mapping[str, Any], digests: Mapping[str, str] | None = None) -> None:
    """Publish a JSON object with a checksum of itself under the key `seal`; `read_sealed_json` reads it.

    Args:
        digests: SHA-256 of files that belong to it, by a name for each; the seal contains 16 digits of each.
    """
    named = "".join(f" {name}:{digest[:16]}" for name, digest in sorted((digests or {}).items()))
    publish_text(path, sealed_text(_plain({**content, SEAL: UNSEALED + named})))


@dataclass(frozen=True)
class Manifest:
    """What a published folder contains: its header and the size and SHA-256 of each file by relative name."""

    header: Header
    files: dict[str, dict[str, Any]]

    @property
    def facts(self) -> dict[str, Any]:
        return self.header.facts


@contextmanager
def publish_folder(path: Path, spec: FolderSpec, facts: dict[str, Any]) -> Iterator[Path]:
    """Yield a hidden folder to fill; on success write its manifest and put it in the place of `path`.

    A link at `path` is followed. The sidecars of the version before are removed.
    `facts` may be filled while the folder is: it is read when the block ends.

    Raises:
        ArtifactError: a file that the spec requires was not written.
    """
    given, path = path, real(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    with hidden(path, "partial") as partial:
        partial.mkdir()
        yield partial
        lacking = [name for name in spec.required if not (partial / name).is_file()]
        if lacking:
            raise ArtifactError(f"{path}: {spec.name} lacks {', '.join(lacking)}")
        write_manifest(partial, header_for(spec, facts))
        put_in_place(partial, path)
        for ending in SIDECARS:
            sidecar = given.with_name(given.name + ending)
            with suppress(OSError):  # none there, or none could be: a name that is too long
                if MARK.encode() in sidecar.read_bytes():
                    remove(sidecar)


def real(path: Path) -> Path:
    """Where an output is written: what a link at `path` leads to, or `path` itself."""
    return path.resolve() if path.is_symlink() else path


def put_in_place(source: Path, path: Path) -> None:
    """Rename a complete file or folder to `path`; what was there is replaced in one step, and removed after it.

    Where the system cannot exchange two folders in one step, a reader finds none for a moment and tries again. A signal
    takes effect after it.
    """
    with hold_signals():
        if not source.is_dir():
            os.replace(source, path)
        elif not _exchange(source, path):
            with hidden(path, "replaced") as replaced:
                if path.exists():
                    os.replace(path, replaced)
                try:
                    os.replace(source, path)
                except OSError:
                    if replaced.exists():
                        os.replace(replaced, path)
                    raise
        _sync(path.parent)


@cache
def _exchanger() -> Callable[[bytes, bytes], int] | None:
    """The system's call that lets two names change places, or None."""
    system = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(system, "renameat2"):
        return lambda one, two: int(system.renameat2(-100, one, -100, two, 2))  # AT_FDCWD, RENAME_EXCHANGE
    if sys.platform == "darwin" and hasattr(system, "renamex_np"):
        return lambda one, two: int(system.renamex_np(one, two, 2))  # RENAME_SWAP
    return None


def _exchange(one: Path, two: Path) -> bool:
    """Let two names change places in one step; False where the system or the file system cannot."""
    call = _exchanger()
    return call is not None and call(os.fsencode(one), os.fsencode(two)) == 0


def write_manifest(folder: Path, header: Header) -> None:
    """Write `manifest.json`, which lists every file in `folder`."""
    files: dict[str, dict[str, Any]] = {}
    for child in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        _sync(child)
        files[child.relative_to(folder).as_posix()] = {
            "bytes": child.stat().st_size,
            "sha256": file_digest(child),
        }
    publish_sealed(folder / MANIFEST, {**json.loads(header.to_json()), "files": files})


def read_manifest(folder: Path, spec: FolderSpec | None = None) -> Manifest:
    """Read and check a published folder's manifest: its own checksum, and its files' names and sizes.

    What is in the files is checked when they are read (`need_intact`).

    Raises:
        ArtifactError: no folder, no manifest, a damaged one, another spec or version, or a file that is missing or cut
            short.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if spec is not None:
            raise missing(folder, spec)
        raise ArtifactError(f"{folder} is not a published folder: it has no {MANIFEST}")
    run = repair_command(folder)
    content = read_sealed_json(path, run)
    header = Header.of(content, path)
    if spec is not None:
        check_header(header, spec, folder)
    files = listed_files(content, path, run)
    for name, entry in files.items():
        child = folder / name
        if not child.is_file() or child.stat().st_size != entry["bytes"]:
            found = f"{child.stat().st_size} bytes" if child.is_file() else "no file"
            raise ArtifactError(
                f"{child} does not match its manifest",
                found=found,
                expected=f"{entry['bytes']} bytes",
                run=run,
            )
    return Manifest(header, files)


def listed_files(content: Mapping[str, Any], path: Path, run: str) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file by name, from the content of the manifest at `path`.

    Args:
        run: the command that mends it, for the message.

    Raises:
        ArtifactError: the manifest has no such list.
    """
    files = content.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in files.values()
    ):
        raise ArtifactError(f"{path}: its list of files cannot be read", run=run)
    return files
