"""Loading a pretrained codebook, of words or of patches, from its folder."""

from __future__ import annotations

from pathlib import Path

from vqpipe.artifacts.intact import reads_whole
from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.spec import OneOf
from vqpipe.artifacts.specs.codebooks import PATCHES_CODEBOOK, WORDS_CODEBOOK
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK
from vqpipe.codebooks.patches import PatchesCodebook, read_patches_codebook
from vqpipe.codebooks.words import WordsCodebook, read_words_codebook
from vqpipe.errors import ArtifactError

PretrainedCodebook = WordsCodebook | PatchesCodebook | None
"""The codebook that a tokenizer is built on; None for one that needs none."""
PRETRAINED = OneOf("pretrained codebook", (WORDS_CODEBOOK, PATCHES_CODEBOOK, NO_CODEBOOK))
"""Their artifacts."""


@reads_whole
def load_pretrained(folder: Path) -> PretrainedCodebook:
    """The codebook of words or patches at `folder`, or None for the artifact that means none.

    Raises:
        ArtifactError: the folder is missing, damaged, or another artifact.
    """
    if not folder.exists():
        raise ArtifactError(f"the codebook {folder} does not exist", run="dvc repro graph cluster")
    spec = read_manifest(folder).header.spec
    if spec == WORDS_CODEBOOK.name:
        return read_words_codebook(folder)
    if spec == PATCHES_CODEBOOK.name:
        return read_patches_codebook(folder)
    if spec == NO_CODEBOOK.name:
        return None
    raise ArtifactError(
        f"{folder} is not a pretrained codebook",
        found=spec,
        choices=[WORDS_CODEBOOK.name, PATCHES_CODEBOOK.name, NO_CODEBOOK.name],
    )


def load_codebook(folder: str | Path) -> WordsCodebook | PatchesCodebook:
    """A published codebook, for your own code: `from vqpipe import load_codebook`.

    `WordsCodebook` has words, vectors, edges and weights; `PatchesCodebook` has vectors, counts and prefixes of smaller
    K. Both find the nearest code of a feature.

    Raises:
        ArtifactError: the folder is missing, damaged, or has no codebook.
    """
    codebook = load_pretrained(Path(folder))
    if codebook is None:
        raise ArtifactError(
            f"{folder} means that a tokenizer needs no pretrained codebook: it has no codebook",
            choices=[WORDS_CODEBOOK.name, PATCHES_CODEBOOK.name],
        )
    return codebook
