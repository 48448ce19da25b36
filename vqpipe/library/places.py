"""Where artifacts are: a tokenizer, prior or task that a caller names, and the parts that an artifact was made with."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vqpipe.artifacts.inputs_outputs import need_output
from vqpipe.artifacts.lineage import read_lineage
from vqpipe.artifacts.publish import MANIFEST, listed_files
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.artifacts.spec import FolderSpec
from vqpipe.errors import ArtifactError, did_you_mean
from vqpipe.tokenizers.stored import CONFIG, named_folder


@dataclass(frozen=True)
class Place:
    """Where artifacts of one kind are looked for."""

    what: str
    """What one is called, such as `prior`."""
    folder: Path
    """Where a name without a folder is looked for, such as `artifacts/prior`."""
    specs: frozenset[str]
    """The names of the specs of their folders: of an artifact, and of what is exported or saved."""
    on_hub: bool = True
    """Whether such artifacts are on the Hub too, under `owner/name`."""

    def is_one(self, folder: Path) -> bool:
        """Whether a folder says of itself that it contains one, whole or not."""
        for name in (MANIFEST, CONFIG):
            try:
                content = json.loads((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(content, dict) and content.get("spec") in self.specs:
                return True
        return False

    def local(self, given: str | Path) -> Path | None:
        """The folder that a caller means, which may not be there; None for what only the Hub can have.

        A folder that is there comes first, then a name below `folder`. A `Path` is no name.

        Raises:
            ArtifactError: no path or name, a name without an owner that is not below `folder`, or a path that is not
                there in a folder of such artifacts.
        """
        given = named_folder(given, self.what)
        if os.path.exists(given) or not isinstance(given, str) or given.startswith((".", "~", os.sep)):
            found = Path(given).expanduser()
            self.need_there(found)
            return found
        if (self.folder / given).exists():
            return self.folder / given
        if "/" not in given or Path(given).parent == self.folder:
            known = self._names(self.folder)
            raise ArtifactError(
                f"there is no {self.what} {given}{did_you_mean(Path(given).name, known)}", choices=known or None,
                expected=self._expected("a folder", f"a name below {self.folder}"), run=self._run(known),
            )  # fmt: skip
        if not self.on_hub or given.count("/") > 1:  # which no name on the Hub has
            self.need_there(Path(given))
        return None if self.on_hub else Path(given)

    def need_there(self, folder: Path) -> None:
        """Refuse a folder that is not there with the names of those next to it, where there are some.

        Raises:
            ArtifactError: it is not there, and others are.
        """
        if os.path.exists(folder) or not folder.parent.is_dir():
            return
        known = self._names(folder.parent)
        if known:
            raise ArtifactError(
                f"there is no {self.what} {folder}{did_you_mean(folder.name, known)}", choices=known,
                expected=self._expected(f"one below {folder.parent}", "another folder"), run=self._run(known),
            )  # fmt: skip

    def _expected(self, one: str, other: str) -> str:
        return f"{one}, {other}, or owner/name on the Hub" if self.on_hub else f"{one}, or {other}"

    def _run(self, known: list[str]) -> str | None:
        """The command that makes one: where there is no other source, or where a pipeline has made none yet."""
        none_yet = not known and self.folder.parent.is_dir()
        return f"dvc repro {self.what}" if none_yet or not self.on_hub else None

    def _names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir() if self.is_one(path)) if folder.is_dir() else []


def find_part(folder: Path, nearby: Path, spec: str) -> Path:
    """The folder of an input of an artifact: near it, as in the pipeline; else by its lineage.

    Args:
        folder: the artifact.
        nearby: where the part is from the folder of all artifacts, such as `tokenizer/vq`.
        spec: the name of the part's spec, which is also the option that gives it: `tokenizer`, `clip`.

    Raises:
        ArtifactError: it is at none of these places.
    """
    lineage = read_lineage(folder)
    named = [Path(path) for path, own in lineage.specs.items() if own == spec] if lineage is not None else []
    places = [folder.resolve().parent.parent / nearby, *named]
    for place in places:
        if place.is_dir():
            return place
    raise ArtifactError(
        f"the {spec} of {folder} is not there", found="nothing at " + ", ".join(map(str, places)),
        expected=f"its folder: {spec} (--{spec})",
    )  # fmt: skip


def need_own(out: Path, spec: FolderSpec, more: Sequence[str] = ()) -> None:
    """Check that a tool can publish a folder of `spec` at `out` and that nothing else is lost by it.

    Args:
        more: what such a folder may contain in addition to what the spec requires, where its manifest is damaged.

    Raises:
        ArtifactError: a file, a folder of another kind, or one in which something was put since it was published.
        SetupError: nothing can be written there.
    """
    need_output(out, spec)
    manifest = out / MANIFEST
    if not manifest.is_file():
        return
    names, is_whole = [*spec.required, *more], False
    with suppress(ArtifactError):  # a damaged manifest is mended by publishing again
        names, is_whole = list(listed_files(read_sealed_json(manifest), manifest, spec.stage)), True
    own = {MANIFEST, *(name.split("/")[0] for name in names)}
    others = [child.name for child in out.iterdir() if child.name not in own]
    if is_whole:
        inside = (path.relative_to(out) for path in out.rglob("*") if not path.is_dir())
        known = {*names, MANIFEST}
        others += [
            path.as_posix() for path in inside if path.as_posix() not in known and path.parts[0] in own
        ]
    if others:
        shown = sorted(others)
        raise ArtifactError(
            f"{out} has what its manifest does not list, which would be lost",
            found=", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else ""),
            expected="a new folder, or these moved out of it",
        )  # fmt: skip
