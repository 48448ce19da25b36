"""The CLIP of an exported prior: one sealed safetensors file, with open_clip's config and the id in its header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqpipe.artifacts.intact import read_intact
from vqpipe.artifacts.publish import MANIFEST, read_manifest
from vqpipe.artifacts.seal import parse_object
from vqpipe.artifacts.specs.clip import CLIP, CLIP_WEIGHTS
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.vision import towers
from vqpipe.vision.clip import Clip, StoredClip, load_weights

FILE = "model.safetensors"


def stored_clip(folder: Path, device: torch.device | str = "cpu") -> Clip | StoredClip:
    """As `load_clip`, but the network of an artifact is read when it is first asked for; errors of `Clip.read_id`."""
    return StoredClip(folder, device) if _is_artifact(folder) else load_clip(folder, device)


def load_clip(folder: Path, device: torch.device | str = "cpu") -> Clip:
    """A CLIP from its artifact, or from the folder in an exported prior.

    Raises:
        ArtifactError: missing, damaged, of another version, or weights that do not fit the config.
    """
    if _is_artifact(folder):
        return Clip.load(folder, device)
    weights, facts = _read(folder)
    model = towers.build_model(facts["config"]["model_cfg"], facts["id"])
    load_weights(model, weights, str(folder))
    return Clip(model, facts["config"]["preprocess_cfg"], facts["id"]).to(device)


def copy_clip(folder: Path, into: Path) -> None:
    """Write a CLIP of either form into a folder of an exported prior."""
    weights, facts = _read(folder)
    write_tensors(into / FILE, CLIP_WEIGHTS, weights, facts, sealed=True)


def _is_artifact(folder: Path) -> bool:
    """Whether a folder is read as the stage's artifact, also one that has neither form."""
    return (folder / MANIFEST).is_file() or not (folder / FILE).is_file()


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights, and the id and open_clip's config."""
    weights, facts = read_tensors(folder / FILE, CLIP_WEIGHTS)
    if (folder / MANIFEST).is_file():
        config = parse_object(read_intact(folder / "config.json"), folder / "config.json")
        facts = {"id": read_manifest(folder, CLIP).facts["id"], "config": config}
    return weights, facts
