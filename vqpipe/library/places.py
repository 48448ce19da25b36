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
from vqpipe.params.entries import PARAMS, entries_of, repro_command
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
            raise none_of([self], given)
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
        known = self.names(folder.parent)
        if known:
            raise ArtifactError(
                f"there is no {self.what} {folder}{did_you_mean(folder.name, known)}", choices=known,
                expected=self.expected(f"one below {folder.parent}", "another folder"), run=self.run(folder),
            )  # fmt: skip

    def expected(self, one: str, other: str) -> str:
        """What could have been given, for a message."""
        return f"{one}, {other}, or owner/name on the Hub" if self.on_hub else f"{one}, or {other}"

    def run(self, given: str | Path) -> str | None:
        """The command that makes the one that is meant, where the params here have an entry of its name."""
        place, folder = Path(given), self.folder.resolve()
        below = place if len(place.parts) > 1 else self.folder / place
        is_here = PARAMS.is_file() or folder.parent.is_dir()
        return repro_command(self.what, place.name) if is_here and below.resolve().parent == folder else None

    def names(self, folder: Path) -> list[str]:
        """The names of the artifacts of this kind in a folder."""
        return sorted(path.name for path in folder.iterdir() if self.is_one(path)) if folder.is_dir() else []


def none_of(places: Sequence[Place], given: str) -> ArtifactError:
    """The error for a name, or a path in the folder of a kind, that names nothing of these kinds."""
    known = [name for place in places for name in place.names(place.folder) or entries_of(place.what) or ()]
    what, below = (
        " or ".join(each) for each in zip(*((one.what, str(one.folder)) for one in places), strict=True)
    )
    runs = [run for place in places if (run := place.run(given)) and ("@" in run or len(places) == 1)]
    return ArtifactError(
        f"there is no {what} {given}{did_you_mean(Path(given).name, known)}", choices=known or None,
        expected=places[0].expected("a folder", f"a name below {below}"), run=runs[0] if runs else None,
    )  # fmt: skip


def find_part(folder: Path, nearby: Path, spec: str) -> Path:
    """The folder of an input of an artifact: near it, as in the pipeline; else by its lineage.

    Args:
        folder: the artifact.
        nearby: where the part is from the folder of all artifacts, such as `tokenizer/vq`.
        spec: the name of the part's spec, which is also the option that gives it: `tokenizer`, `clip`.

    Raises:
        ArtifactError: it is at none of these places.
    """
    lineage = read_lineage(folder.absolute())  # `.` has no name, by which the lineage is called
    named = [Path(path) for path, own in lineage.specs.items() if own == spec] if lineage is not None else []
    places = [folder.resolve().parent.parent / nearby, *named]
    for place in places:
        if place.is_dir():
            return place
    raise ArtifactError(
        f"the {spec} of {folder} is not there", found="nothing at " + ", ".join(map(str, places)),
        expected=f"its folder{', or its name' if spec == 'tokenizer' else ''}: {spec} (--{spec})",
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
