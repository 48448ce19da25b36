"""Metrics, curves and artifact of one run belong together: the seal of the metrics names the other two by content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vqpipe.artifacts.publish import tree_digest
from vqpipe.artifacts.remedies import CURVES
from vqpipe.errors import ArtifactError, MismatchError


def need_tied(metrics: Path, name: str, stated: str, places: Sequence[Path], run: str) -> None:
    """Raise where what is there is not what metrics were published with; an artifact may be absent.

    Args:
        metrics: their file.
        name: what its seal names: `curves`, or the spec of the artifact.
        stated: the digest in the seal, or its first digits.
        places: where the curves or the artifact may be; one of them has to fit.
        run: the command that mends it.

    Raises:
        ArtifactError: curves that are not there, or an artifact that is damaged.
        MismatchError: curves or an artifact of another run.
    """
    found = {path: tree_digest(path) for path in places if path.exists()}
    if places and not found and name == CURVES:
        raise ArtifactError(f"{places[0]} is not there, and {metrics} is", run=run)
    if found and not any(digest.startswith(stated) for digest in found.values()):
        path, digest = next(iter(found.items()))
        raise MismatchError(
            f"{metrics} is not of {path}", found=f"{path} is {digest[:16]}…",
            expected=f"{stated}…, as the seal of the metrics says", run=run,
        )  # fmt: skip
