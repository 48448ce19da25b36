"""What an artifact is: a name, a version and the columns, tensors or files it must contain."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqpipe.errors import ArtifactError, did_you_mean
from vqpipe.params.entries import entries_of, repro_command

HEADER_KEY = "vqpipe"
"""The one metadata key in a Parquet or safetensors header (several would be written in a random order)."""

Facts = Mapping[str, Any]
"""What a reader needs to know of the content: counts, ids, normalisation. JSON values; never time, host or paths."""


@dataclass(frozen=True)
class TableSpec:
    """A Parquet file. `columns` maps each column to the text of its Arrow type, such as `list<element: string>`."""

    name: str
    version: int
    columns: Mapping[str, str]
    stage: str
    about: str = ""


@dataclass(frozen=True)
class TensorSpec:
    """A safetensors file. `tensors` maps names to dtypes (`F32`, `F16`, `I64`, …).

    `open` allows tensors in addition to the named ones, as a model's weights need.
    """

    name: str
    version: int
    tensors: Mapping[str, str]
    stage: str
    open: bool = False
    about: str = ""


@dataclass(frozen=True)
class FolderSpec:
    """A folder with a manifest. `required` names files that must be in it."""

    name: str
    version: int
    stage: str
    required: tuple[str, ...] = ()
    about: str = ""


Spec = TableSpec | TensorSpec | FolderSpec


@dataclass(frozen=True)
class OneOf:
    """Folders of several specs, any of which may be in a place, such as the codebooks a tokenizer can be built on."""

    about: str
    specs: tuple[FolderSpec, ...]


def make_command(spec: Spec) -> str:
    """The command that makes artifacts: of a stage, or the tool that `spec.stage` names as `vqpipe TOOL`."""
    return spec.stage if spec.stage.startswith("vqpipe ") else f"dvc repro {spec.stage}"


def make_one(spec: Spec, where: Path) -> str | None:
    """The command that makes the artifact that should be at `where`, a folder or a file in a folder.

    None for a folder that is called as no entry of the params file here; see `vqpipe.params.entries`.
    """
    if spec.stage.startswith("vqpipe "):
        return spec.stage
    if isinstance(spec, FolderSpec):
        return repro_command(spec.stage, where.name)
    return repro_command(spec.stage, where.parent.name) or make_command(spec)


def repair_command(path: Path, otherwise: str = "") -> str:
    """The command that brings back a damaged output: DVC does not check a file whose time of change is as recorded.

    Args:
        otherwise: the command where DVC's store has none; by default that it be made again.
    """
    name = shlex.quote(str(path))
    return (
        f"rm -r {name} && dvc checkout {name}; or {otherwise or f'rm -r {name} and the stage that made it'}"
    )


@dataclass(frozen=True)
class Header:
    """The part of a file that states what it is."""

    spec: str
    version: int
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self, seal: str | None = None) -> str:
        """One line of JSON with sorted keys; `seal` is what a file that carries its own checksum has in it."""
        content: dict[str, Any] = {"spec": self.spec, "version": self.version, "facts": self.facts}
        if seal is not None:
            content["seal"] = seal
        return json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, where: object) -> Header:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{where}: its vqpipe header cannot be read ({error})") from error
        return cls.of(content, where)

    @classmethod
    def of(cls, content: Any, where: object) -> Header:
        """The header in a JSON object.

        Raises:
            ArtifactError: a part of it is missing or of another type.
        """
        try:
            return cls(str(content["spec"]), int(content["version"]), dict(content["facts"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{where}: its vqpipe header cannot be read ({error})") from error


def header_for(spec: Spec, facts: Facts | None) -> Header:
    """The header that a writer puts into a file of this spec."""
    return Header(spec.name, spec.version, json.loads(json.dumps(dict(facts or {}))))


def check_header(header: Header, spec: Spec, where: object) -> None:
    """Raise `ArtifactError` when a file's header is not of this spec and version. One of another version has to be made
    again; another artifact is the wrong path, which no command mends."""
    if (header.spec, header.version) != (spec.name, spec.version):
        raise ArtifactError(
            f"{where}: {'an artifact of another version' if header.spec == spec.name else 'another kind of artifact'}",
            found=f"{header.spec} v{header.version}",
            expected=f"{spec.name} v{spec.version}",
            run=make_one(spec, Path(str(where))) if header.spec == spec.name else None,
        )


def missing(where: Path, *specs: Spec) -> ArtifactError:
    """The error for an artifact that is not there, or for something else in its place."""
    wanted = " or ".join(f"{spec.name} v{spec.version}" for spec in specs)
    folders = [spec for spec in specs if isinstance(spec, FolderSpec)]
    run = " or ".join(dict.fromkeys(one for spec in specs if (one := make_one(spec, where))))
    known = None if run or not folders else entries_of(folders[0].stage)
    if not where.exists():
        return ArtifactError(
            f"{where} does not exist (a {wanted} artifact){did_you_mean(where.name, known or [])}",
            choices=known, run=run or None,
        )  # fmt: skip
    held = ", ".join(path.name for path in sorted(where.iterdir())[:8]) if where.is_dir() else "a file"
    return ArtifactError(
        f"{where} is not a {wanted} artifact", found=held or "an empty folder", choices=known, run=run or None
    )
