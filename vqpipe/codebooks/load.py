"""Reading whichever codebook prior a path holds."""

from __future__ import annotations

from pathlib import Path

from vqpipe.artifacts.intact import reads_whole
from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.spec import OneOf
from vqpipe.artifacts.specs.centroids import CENTROIDS
from vqpipe.artifacts.specs.tokenizer import NO_PRIOR
from vqpipe.artifacts.specs.words import WORDS
from vqpipe.codebooks.centroids import Centroids, read_centroids
from vqpipe.codebooks.words import Words, read_words
from vqpipe.errors import ArtifactError

Prior = Words | Centroids | None
"""Any codebook prior that a tokenizer can be built on."""
PRIOR = OneOf("codebook prior", (WORDS, CENTROIDS, NO_PRIOR))
"""Their artifacts."""


@reads_whole
def load_prior(folder: Path) -> Prior:
    """The words or centroids at `folder`, or None for the artifact that stands for no prior.

    Raises:
        ArtifactError: the folder is missing, or holds something else.
    """
    if not folder.exists():
        raise ArtifactError(f"the codebook prior {folder} does not exist", run="dvc repro graph cluster")
    spec = read_manifest(folder).header.spec
    if spec == WORDS.name:
        return read_words(folder)
    if spec == CENTROIDS.name:
        return read_centroids(folder)
    if spec == NO_PRIOR.name:
        return None
    raise ArtifactError(
        f"{folder} is no codebook prior", found=spec, choices=[WORDS.name, CENTROIDS.name, NO_PRIOR.name]
    )


def load_codebook(folder: str | Path) -> Words | Centroids:
    """A published codebook prior, for one's own code: `from vqpipe import load_codebook`.

    `Words` has words, vectors, edges and weights; `Centroids` has vectors, counts and prefixes of smaller K. Both
    find the nearest code of a feature.

    Raises:
        ArtifactError: the folder is missing, damaged, or holds no codebook.
    """
    prior = load_prior(Path(folder))
    if prior is None:
        raise ArtifactError(
            f"{folder} stands for no prior: it holds no codebook", choices=[WORDS.name, CENTROIDS.name]
        )
    return prior
