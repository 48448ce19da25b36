"""Checks of the paths that a stage or tool reads and writes, before any work; they change nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vqpipe.artifacts.publish import MANIFEST, read_manifest, real
from vqpipe.artifacts.spec import FolderSpec, OneOf, TableSpec, check_header, make_command, missing
from vqpipe.errors import ArtifactError
from vqpipe.runtime.preflight import need_place, need_short


@dataclass(frozen=True)
class FileKind:
    """A file that is not an artifact. `starts` are the first bytes of every such file; others are never overwritten."""

    name: str
    about: str
    starts: tuple[bytes, ...]


JSON = FileKind("json", "a JSON file", (b"{",))
CURVES = FileKind("curves", "a CSV file of curves", (b"step",))
HTML = FileKind("page", "an HTML page", (b"<!doctype html", b"<!DOCTYPE html"))
MARKDOWN = FileKind("card", "a Markdown page", (b"#", b"---"))
PARQUET = (b"PAR1",)

Kind = FolderSpec | OneOf | TableSpec | FileKind
Input = Path | tuple[Path, FolderSpec | OneOf]
"""A path with the kinds that its artifact may have; a path alone only has to exist."""
Output = tuple[Path, Kind]
"""A path with the kind of what is published there."""


def need_input(path: Path, kind: FolderSpec | OneOf) -> str:
    """The spec of a folder artifact, which is checked to be of one of these kinds.

    Raises:
        ArtifactError: nothing there, something else, another version, or a file of it that is missing or cut short.
    """
    wanted = [kind] if isinstance(kind, FolderSpec) else list(kind.specs)
    if not (path / MANIFEST).is_file():
        if path.exists() and any(spec.name == "tokenizer" for spec in wanted) and _is_saved_model(path):
            return "tokenizer"  # what `save_pretrained` writes has no manifest; its reader checks it
        raise missing(path, *wanted)
    header = read_manifest(path).header
    spec = next((spec for spec in wanted if spec.name == header.spec), wanted[0])
    if isinstance(kind, OneOf) and header.spec != spec.name:
        raise ArtifactError(
            f"{path} is not a {kind.about}", found=f"{header.spec} v{header.version}",
            choices=[f"{spec.name} v{spec.version}" for spec in wanted],
            run=" or ".join(dict.fromkeys(map(make_command, wanted))),
        )  # fmt: skip
    check_header(header, spec, path)
    return header.spec


def need_output(path: Path, kind: Kind, sidecars: Iterable[str] = ()) -> Path:
    """The path of an output, after a check that it can be published there and that nothing else is lost by it.

    Publishing replaces what is there: a file, or a folder with its whole content.

    Args:
        sidecars: endings of further files that are written next to it.

    Raises:
        ArtifactError: a folder in place of a file, the reverse, a file or folder of another kind, or a place in a
            published folder.
        SetupError: nothing can be written there; see `need_place`.
    """
    need_short(path)
    need_outside(path)
    if isinstance(kind, FileKind | TableSpec):
        _need_file(path, kind)
    else:
        _need_folder(path, (kind,) if isinstance(kind, FolderSpec) else kind.specs)
    if path.is_dir():
        need_place(path, what=str(path))  # its content is removed
    need_place(path.parent, [path.name, *(path.name + ending for ending in sidecars)])
    return path


def need_outside(path: Path) -> None:
    """Raise `ArtifactError` for a path in a published folder, whose manifest lists all that is in it."""
    for folder in real(path).absolute().parents:
        spec = _spec_name(folder / MANIFEST)
        if spec is not None:
            shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
            raise ArtifactError(
                f"{shown} is a published folder, whose manifest would then be wrong",
                found=f"an artifact of {spec}", expected="a place outside of it",
            )  # fmt: skip


def need_apart(inputs: Sequence[Path], outputs: Sequence[Output]) -> None:
    """Raise `ArtifactError` where publishing one output would remove another output or an input."""
    for at, (path, kind) in enumerate(outputs):
        is_folder = not isinstance(kind, FileKind | TableSpec)
        others = [other for other, _ in (*outputs[:at], *outputs[at + 1 :])]
        for other in (*others, *inputs):
            inside = is_folder and other.resolve().is_relative_to(path.resolve())
            if inside or other.resolve() == path.resolve():
                raise ArtifactError(
                    f"{path} and {other} cannot both be kept: one would replace the other",
                    expected="a place of its own for each input and output",
                )  # fmt: skip


def _need_file(path: Path, kind: FileKind | TableSpec) -> None:
    about, starts = (
        (kind.about, kind.starts) if isinstance(kind, FileKind) else (f"a {kind.name} artifact", PARQUET)
    )
    ending = ".parquet" if isinstance(kind, TableSpec) else ".md" if kind is MARKDOWN else ".json"
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder", expected=f"a file, such as {path / ('out' + ending)}")
    if not path.exists():
        return
    if not path.is_file():
        raise ArtifactError(f"{path} is not a file that can be replaced", expected="a new file")
    if path.stat().st_size and os.access(path, os.R_OK):
        with path.open("rb") as stream:
            begins = stream.read(64)
        if not begins.startswith(starts) or (isinstance(kind, TableSpec) and not _is_table(path, kind)):
            raise ArtifactError(
                f"{path} contains something else, which would be lost", found=_shown(begins),
                expected=f"a new file, or one that is {about}",
            )  # fmt: skip


def _need_folder(path: Path, specs: Sequence[FolderSpec]) -> None:
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"{path} is a file", expected="a new folder")
    if os.path.ismount(path):
        raise ArtifactError(
            f"{path} is a mount point, which cannot be replaced",
            expected=f"a folder in it, such as {path / 'out'}",
        )
    if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        return
    held = sorted(child.name for child in path.iterdir())
    if not held:
        return
    found = _spec_name(path / MANIFEST)
    if found not in [spec.name for spec in specs]:
        raise ArtifactError(
            f"{path} contains something else, which would be lost",
            found=f"an artifact of {found}" if found else ", ".join(held[:5]),
            expected=f"a new folder, an empty one, or one that `{make_command(specs[0])}` wrote",
        )


def _is_table(path: Path, spec: TableSpec) -> bool:
    from vqpipe.artifacts.tables import read_header

    try:
        return read_header(path).spec == spec.name
    except ArtifactError:
        return False


def _spec_name(manifest: Path) -> str | None:
    """The spec that a manifest names, even if the rest of it is wrong."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    spec = content.get("spec") if isinstance(content, dict) else None
    return spec if isinstance(spec, str) else None


def _is_saved_model(path: Path) -> bool:
    return path.is_dir() and (path / "config.json").is_file()


def _shown(begins: bytes) -> str:
    text = begins.decode("utf-8", "replace").splitlines()[0][:40] if begins.strip() else ""
    return f"a file that begins with {text!r}"
