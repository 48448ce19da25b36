"""Where the parts are that an artifact of the pipeline was made with."""

from __future__ import annotations

from pathlib import Path

from vqpipe.artifacts.lineage import read_lineage
from vqpipe.errors import ArtifactError


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
