"""Where the tools write: never over something that they did not make."""

from __future__ import annotations

from pathlib import Path

from vqpipe.artifacts.publish import MANIFEST, read_manifest
from vqpipe.artifacts.spec import FolderSpec
from vqpipe.errors import ArtifactError


def check_target(out: Path, spec: FolderSpec) -> None:
    """Raise `ArtifactError` unless `out` is new, an empty folder, or an artifact of the same kind.

    Publishing replaces a folder whole: what lay in it would be gone.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise ArtifactError(f"{out} is a file", expected="a new folder")
    found = read_manifest(out).header.spec if (out / MANIFEST).is_file() else None
    if found != spec.name:
        inside = ", ".join(sorted(path.name for path in out.iterdir())[:5])
        raise ArtifactError(
            f"{out} holds something else, which would be lost", found=f"an artifact of {found}" if found else inside,
            expected=f"a new folder, an empty one, or one that `{spec.stage}` wrote",
        )  # fmt: skip
