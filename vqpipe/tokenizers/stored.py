"""A tokenizer's folder, in either of its two forms: a pipeline artifact, or a folder as on the Hugging Face Hub.

Both have the weights in `model.safetensors`. An artifact has `manifest.json` over its files, and `aligner.safetensors`
where the tokenizer was trained with `align`. The other form has `config.json`, whose content is the header of the
weights without the codes' names, and may contain further files, such as a card. An exported prior has this form too:
`write_config_folder` and `read_config` take what the folder is.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vqpipe.alignment.aligner import Aligner, AlignParams
from vqpipe.artifacts.intact import reads_whole
from vqpipe.artifacts.publish import MANIFEST, publish_folder, publish_json, read_manifest
from vqpipe.artifacts.spec import FolderSpec, Header, TensorSpec, check_header, missing
from vqpipe.artifacts.specs.tokenizer import ALIGNER_WEIGHTS, TOKENIZER, WEIGHTS
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.errors import ArtifactError
from vqpipe.params.base import validate

CONFIG, MODEL, ALIGNER = "config.json", "model.safetensors", "aligner.safetensors"
LIBRARY = "vqpipe"
"""The value of `library_name` in `config.json`."""
FOREIGN = ("library_name", "model_type", "_class_name", "architectures", "timm_version")
"""Keys by which other libraries' configs are recognised."""


def small_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts without the codes' names, of which there may be thousands."""
    return {key: value for key, value in facts.items() if key != "names"}


@dataclass(frozen=True)
class StoredAligner:
    """An aligner and the text encoder that it was trained with."""

    aligner: Aligner
    text: str
    """The id of the encoder (`TextSide.id`) whose features and token embeddings it was trained with."""


def write_artifact(
    folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any], aligner: StoredAligner | None = None
) -> None:
    """Publish a tokenizer as a pipeline artifact, with the aligner that was trained with it where there is one."""
    with publish_folder(folder, TOKENIZER, small_facts(facts)) as partial:
        write_tensors(partial / MODEL, WEIGHTS, tensors, facts)
        if aligner is not None:
            stated = {"align": aligner.aligner.config.model_dump(mode="json"), "text": aligner.text}
            write_tensors(partial / ALIGNER, ALIGNER_WEIGHTS, aligner.aligner.state_dict(), stated)


def write_config_folder(
    folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any], what: FolderSpec, weights: TensorSpec
) -> None:
    """Write weights with a checksum of their own, then `config.json`, into a folder that may contain other files.

    Args:
        folder: of a tokenizer or a prior.
        tensors, facts: its weights.
        what: what `config.json` says that the folder is.
        weights: the spec of the weights.

    Raises:
        ArtifactError: the folder is a pipeline artifact, whose manifest would then be wrong.
    """
    if (folder / MANIFEST).exists():
        raise ArtifactError(
            f"{folder} is a pipeline artifact; saving into it would break its manifest",
            expected="another folder",
        )
    write_tensors(folder / MODEL, weights, tensors, facts, sealed=True)
    header = {"library_name": LIBRARY, "spec": what.name, "version": what.version}
    publish_json(folder / CONFIG, {**header, "facts": small_facts(facts)})


def named_folder(given: Any, what: str = "tokenizer") -> str | Path:
    """The folder or name of a tokenizer, or of another kind `what`, from a caller: a `str` unchanged, any other path as
    a `Path`.

    Raises:
        ArtifactError: something else than a path or a name, or an empty one.
    """
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if isinstance(text, str) and text.strip() and "\0" not in text:
        return given if isinstance(given, str) else Path(given)
    raise ArtifactError(
        f"this does not name a {what}",
        found=repr(given if text is None else text)[:80],
        expected=f"a {what}'s folder, or owner/name on the Hub",
    )


@reads_whole
def read_tokenizer(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and facts of a tokenizer's folder of either form.

    Raises:
        ArtifactError: no such folder, one without a tokenizer, another library's model, a tokenizer of another
            version, a damaged file, or a `config.json` that was changed.
    """
    if (folder / MANIFEST).is_file():
        read_manifest(folder, TOKENIZER)
        return read_tensors(folder / MODEL, WEIGHTS)
    if not folder.exists():
        raise missing(folder, TOKENIZER)
    if not (folder / CONFIG).is_file():
        found = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else "a file"
        raise ArtifactError(
            f"{folder} contains no tokenizer", found=found or "nothing",
            expected=f"{MANIFEST} (a pipeline artifact) or {CONFIG} (what save_pretrained writes)",
        )  # fmt: skip
    stated = read_config(folder / CONFIG, TOKENIZER)
    if not (folder / MODEL).is_file():
        raise ArtifactError(f"{folder} has a {CONFIG} but no {MODEL}")
    tensors, facts = read_tensors(folder / MODEL, WEIGHTS)
    if stated != small_facts(facts):
        changed = sorted(
            key for key in {*stated, *facts} - {"names"} if stated.get(key, ...) != facts.get(key, ...)
        )
        raise ArtifactError(
            f"{folder}: {CONFIG} and {MODEL} differ", found=f"another {', '.join(changed)}",
            expected=f"the {CONFIG} that was saved with these weights",
        )  # fmt: skip
    return tensors, facts


@reads_whole
def load_aligner(folder: Path) -> StoredAligner | None:
    """The aligner in a tokenizer's folder, in eval mode and without gradients.

    None where the tokenizer was trained without alignment, or was saved without its aligner (`save_pretrained`).

    Raises:
        ArtifactError: no such folder, one without a tokenizer, or a damaged aligner.
    """
    if (folder / MANIFEST).is_file():
        read_manifest(folder, TOKENIZER)
    elif not (folder / CONFIG).is_file():
        raise missing(folder, TOKENIZER)
    else:
        return None
    if not (folder / ALIGNER).is_file():
        return None
    tensors, facts = read_tensors(folder / ALIGNER, ALIGNER_WEIGHTS)
    config = validate(facts["align"], "align", AlignParams, str(folder))
    return StoredAligner(Aligner.from_state(config, tensors).requires_grad_(False), str(facts["text"]))


def read_config(path: Path, what: FolderSpec) -> dict[str, Any]:
    """The facts in a `config.json` of `what`.

    Raises:
        ArtifactError: not JSON, another library's, of something else, or of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or content.get("library_name") != LIBRARY:
        known = content if isinstance(content, dict) else {}
        signs = ", ".join(f"{key}: {known[key]}" for key in FOREIGN if key in known)
        raise ArtifactError(
            f"{path.parent} is another library's model", found=signs or f"a {CONFIG} without library_name",
            expected=f"library_name: {LIBRARY}",
        )  # fmt: skip
    header = Header.of(content, path)
    check_header(header, what, path.parent)
    return header.facts
