"""An aligner on disk, beside the tokenizer that it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqpipe.alignment.aligner import Aligner
from vqpipe.artifacts.intact import reads_whole
from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.aligner import ALIGNER, ALIGNER_WEIGHTS, NO_ALIGNER
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.errors import ArtifactError, ParamsError
from vqpipe.params.align import AlignParams
from vqpipe.params.base import validate
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.tokenizers.stored import MODEL
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import weights_digest


def check_aligner_out(config: TokenizerParams, folder: Path | None) -> None:
    """Refuse a training whose aligner would be lost; for the start of a run.

    Raises:
        ParamsError: the variant has `align`, and no folder is named.
    """
    if config.align is not None and folder is None:
        raise ParamsError(
            "a variant with align trains an aligner, and nothing says where to publish it",
            expected="the option --aligner, such as --aligner artifacts/aligner/VARIANT, or align: null",
        )


def save_aligner(
    folder: Path, aligner: Aligner | None, tokenizer: Tokenizer, clip_id: str, weights: str
) -> None:
    """Publish an aligner, or the sign that there is none.

    Args:
        aligner: what was trained beside `tokenizer`, or None.
        clip_id: the CLIP whose text features and token embeddings it was trained with.
        weights: `ema` or `last`.
    """
    if aligner is None:
        with publish_folder(folder, NO_ALIGNER, {}):
            return
    facts = {
        "align": aligner.config.model_dump(mode="json"), "clip": clip_id, "weights": weights,
        "tokenizer": weights_digest(tokenizer.state_dict()), "grid": list(tokenizer.grid),
        "num_tokens": len(aligner.vocabulary),
    }  # fmt: skip
    with publish_folder(folder, ALIGNER, facts) as partial:
        write_tensors(partial / MODEL, ALIGNER_WEIGHTS, aligner.state_dict(), facts)


@dataclass(frozen=True)
class StoredAligner:
    """An aligner and the facts that it was published with."""

    aligner: Aligner
    """In eval mode, without gradients."""
    facts: dict[str, Any]

    def belongs_to(self, tokenizer: Tokenizer) -> bool:
        """Whether this aligner was trained with these very weights."""
        return bool(self.facts["tokenizer"] == weights_digest(tokenizer.state_dict()))


@reads_whole
def load_aligner(folder: Path) -> StoredAligner | None:
    """Read a published aligner; None where the variant was trained without alignment.

    Raises:
        ArtifactError: no such folder, something else, or a damaged aligner.
    """
    spec = read_manifest(folder).header.spec if folder.exists() else ALIGNER.name
    if spec == NO_ALIGNER.name:
        read_manifest(folder, NO_ALIGNER)
        return None
    if spec != ALIGNER.name:
        raise ArtifactError(f"{folder} is no aligner", found=spec, choices=[ALIGNER.name, NO_ALIGNER.name])
    read_manifest(folder, ALIGNER)
    tensors, facts = read_tensors(folder / MODEL, ALIGNER_WEIGHTS)
    config = validate(facts["align"], "align", AlignParams, str(folder))
    aligner = Aligner.from_state(config, tensors).requires_grad_(False)
    return StoredAligner(aligner, facts)
