"""Where an artifact came from: the sidecar that names its inputs by content, and whether artifacts fit each other.

The sidecar `NAME.lineage.json` travels with its artifact as an output of the same stage. It is not part of the
artifact, so that equal content has equal bytes no matter what it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from vqpipe.artifacts.publish import SIDECARS, tree_digest
from vqpipe.artifacts.remedies import quoted, repair_output
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.params.entries import repro_command

LINEAGE, COST = SIDECARS


@dataclass(frozen=True)
class Lineage:
    """What a stage records about one of its outputs.

    Attributes:
        stage: its name.
        params: of the stage.
        inputs: SHA-256 of each input by its path; see `vqpipe.artifacts.publish.tree_digest`.
        specs: the spec of each input that is an artifact, by its path.
        output: SHA-256 of the output.
        mixed: whether the stage was allowed to take inputs that were not made from each other (`--mixed`).
        packages: versions by name, Python among them.
    """

    stage: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    specs: Mapping[str, str]
    output: str
    mixed: bool
    packages: Mapping[str, str]


def read_lineage(path: Path) -> Lineage | None:
    """The lineage of an output, or None where it has none.

    Raises:
        ArtifactError: it is damaged.
    """
    sidecar = path.with_name(path.name + LINEAGE)
    if not sidecar.is_file():
        return None
    content = read_sealed_json(sidecar, f"rm {quoted(sidecar)} && dvc checkout {quoted(sidecar)}")
    try:
        return Lineage(**content)
    except TypeError as error:
        raise ArtifactError(f"{sidecar}: not a lineage of this version of vqpipe ({error})") from error


def need_own_lineage(path: Path) -> Lineage | None:
    """The lineage of an output, which is checked to describe the content that is there; None where it has none.

    Raises:
        ArtifactError: damaged, or of other content.
    """
    lineage = read_lineage(path)
    found = tree_digest(path) if lineage is not None else ""
    if lineage is not None and lineage.output != found:
        raise ArtifactError(
            f"{path} does not match its lineage: it was replaced without its stage",
            found=f"SHA-256 {found[:16]}…", expected=f"{lineage.output[:16]}…, as {path.name}{LINEAGE} says",
            run=f"{repair_output(path, lineage.stage)}; or, if this is intended, rm {quoted(path)}{LINEAGE}",
        )  # fmt: skip
    return lineage


def need_fit(inputs: Sequence[tuple[Path, str]], remedy: str | None = None) -> None:
    """Raise where one of a stage's inputs was made from another version of another one.

    Only what a lineage names is compared: an artifact without one, such as an imported tokenizer, fits anything.

    Args:
        inputs: path and spec of each artifact.
        remedy: what the message proposes in addition to the command that makes the set again.

    Raises:
        ArtifactError: a lineage that is damaged, or of other content than its artifact.
        MismatchError: artifacts that do not fit each other.
    """
    known = {path: lineage for path, _ in inputs if (lineage := need_own_lineage(path)) is not None}
    for (one, _), (other, spec) in permutations(inputs, 2):
        if one not in known:
            continue
        digest = tree_digest(other)
        for made_from in _named(known[one], spec):
            if made_from != digest:
                raise misfit(one, known[one], spec, made_from, other, digest, remedy)
    for one, other in permutations(known, 2):
        for path, spec in known[one].specs.items():
            ours = known[one].inputs.get(path)
            for theirs in _named(known[other], spec):
                if ours != theirs and not known[one].mixed and not known[other].mixed:
                    raise MismatchError(
                        f"{one} and {other} were made from two different versions of {spec}",
                        found=f"{str(ours)[:16]}… and {theirs[:16]}…", expected="one version for both",
                        run=_run(known[one].stage, one, remedy),
                    )  # fmt: skip


def misfit(
    one: Path,
    lineage: Lineage,
    spec: str,
    made_from: str,
    other: Path,
    digest: str,
    remedy: str | None = None,
) -> MismatchError:
    """The error for an artifact that was made from another version of what is at `other`."""
    return MismatchError(
        f"{one} was made from another {spec} than {other}",
        found=f"{other} is {digest[:16]}…", expected=f"{made_from[:16]}…, which {one} was made from",
        run=_run(lineage.stage, one, remedy),
    )  # fmt: skip


def _run(stage: str, output: Path, remedy: str | None) -> str:
    command = repro_command(stage, output.name) or f"dvc repro {stage}"
    return command + (f"; {remedy}" if remedy else "")


def _named(lineage: Lineage, spec: str) -> list[str]:
    """The digests of a lineage's inputs of one spec; none for a stage that was run with `--mixed`."""
    if lineage.mixed:
        return []
    return [
        lineage.inputs[path]
        for path, kind in lineage.specs.items()
        if kind == spec and path in lineage.inputs
    ]
