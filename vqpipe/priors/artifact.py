"""A trained prior as an artifact: `save_prior` with its pictures, `read_prior`; its users have `vqpipe.library.priors`.

A folder has one of two forms: the artifact of the stage, with a manifest over its files, or what `vqpipe export` writes
for sharing, with `config.json`, whose content is the header of the weights.

prior = read_prior(Path("artifacts/prior/vq-gpt")).prior
condition = Condition(labels=labels)
indices = prior.sample(condition, len(labels), prior.config.sampling, torch_rng(0, "mine"))
images = tokenizer.decode(indices)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from vqpipe.artifacts.intact import reads_whole
from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.exported import EXPORTED_PRIOR
from vqpipe.artifacts.specs.prior import COMPLETIONS, NEAREST, PRIOR, PRIOR_WEIGHTS, SAMPLES
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.data.images import encode_png
from vqpipe.errors import ArtifactError
from vqpipe.params.base import validate
from vqpipe.priors import PRIORS
from vqpipe.priors.contract import ImageSpace, Prior
from vqpipe.priors.measure_completion import CompletedPictures, completed_row
from vqpipe.priors.text import TextEncoder
from vqpipe.tokenizers.identity import tokenizer_identity
from vqpipe.tokenizers.stored import CONFIG, MODEL, read_config
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import weights_digest

GRID_COLUMNS, GRID_GAP = 8, 2


@dataclass(frozen=True)
class MadeWith:
    """What a prior was trained with, and needs again to make pictures."""

    tokenizer: dict[str, Any]
    """Kind of the quantizer, and the digest of the weights (`tokenizer_identity`)."""
    text_encoder: str | None
    """Id of the text encoder; None unless the condition is `text`."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, text: TextEncoder | None) -> MadeWith:
        """The names of a tokenizer and a text encoder."""
        return cls(tokenizer_identity(tokenizer), text.id if text is not None else None)


@dataclass(frozen=True)
class StoredPrior:
    """A prior as its folder has it."""

    prior: Prior
    made_with: MadeWith
    facts: dict[str, Any]
    """Of the weights, as they were written."""


@dataclass(frozen=True)
class PriorPictures:
    """The pictures in a prior's folder; all images are uint8 RGB of shape (3, H, W)."""

    samples: UInt8[Tensor, "n 3 H W"]
    indices: Int64[Tensor, "n g h w"]
    labels: Int64[Tensor, " n"]
    """The classes that the samples were conditioned on, -1 for none."""
    captions: Sequence[str]
    """The texts that the samples were conditioned on, "" for none."""
    label_maps: Int64[Tensor, "n H W"] | None
    """The maps that the samples were conditioned on, -1 where not known; None unless the condition is a map."""
    unigram: UInt8[Tensor, "n 3 H W"]
    nearest: UInt8[Tensor, "m 3 H W"]
    """The training image nearest to each of the first m samples."""
    nearest_ids: Sequence[str]
    rmse: Float64[Tensor, " m"]
    same_codes: Float64[Tensor, " m"]
    completions: Sequence[CompletedPictures] = ()
    """Empty for a prior that cannot be given known tokens."""


def contact_sheet(
    images: UInt8[Tensor, "n 3 H W"], columns: int = GRID_COLUMNS
) -> UInt8[np.ndarray, "h w 3"]:
    """Images in rows of `columns`, with white lines between them and white in the places left over."""
    count, _, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    tall, wide = height + GRID_GAP, width + GRID_GAP
    sheet = np.full((rows * tall - GRID_GAP, columns * wide - GRID_GAP, 3), 255, dtype=np.uint8)
    for at, image in enumerate(_pixels(images)):
        top, left = (at // columns) * tall, (at % columns) * wide
        sheet[top : top + height, left : left + width] = image
    return sheet


def weights_facts(prior: Prior, averaged: bool, made_with: MadeWith) -> dict[str, Any]:
    """What a folder records about a prior's weights: all that `read_prior` needs to make it again."""
    space = prior.space
    return {
        "params": prior.config.model_dump(mode="json"),
        "num_codes": list(space.num_codes),
        "grid": list(space.grid),
        "groups": space.groups,
        "num_classes": prior.num_classes,
        "classes": list(space.classes),
        "latent_channels": space.latent_channels,
        "latent_std": list(space.latent_std),
        "resolution": space.resolution,
        "map_classes": list(space.map_classes),
        "text_length": space.text_length,
        "text_dim": space.text_dim,
        "averaged": averaged,
        "made_with": asdict(made_with),
    }


def prior_digest(prior: Prior, facts: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, over a prior's facts (its params, what it models, the digest of its tokenizer, its text
    encoder) and its weights: which prior a number is of.

    Args:
        facts: `weights_facts`, or those of a folder.
    """
    content = f"{json.dumps(facts, sort_keys=True)}\n{weights_digest(prior.state_dict())}"
    return sha256(content.encode()).hexdigest()


def save_prior(
    folder: Path, prior: Prior, averaged: bool, pictures: PriorPictures, made_with: MadeWith
) -> None:
    """Publish a prior, whose weights are averaged ones or the last, with its samples."""
    space, facts = prior.space, weights_facts(prior, averaged, made_with)
    with publish_folder(folder, PRIOR, facts) as partial:
        write_tensors(partial / MODEL, PRIOR_WEIGHTS, prior.state_dict(), facts)
        (partial / "samples.png").write_bytes(encode_png(contact_sheet(pictures.samples)))
        (partial / "unigram.png").write_bytes(encode_png(contact_sheet(pictures.unigram)))
        names = ["" if label < 0 else space.classes[label] for label in pictures.labels.tolist()]
        pngs = [encode_png(image) for image in _pixels(pictures.samples)]
        maps = pictures.label_maps
        drawn = None if maps is None else (maps + 1).to(torch.uint8).numpy()
        samples = {
            "image": pngs,
            "label": pictures.labels.to(torch.int32).numpy(),
            "label_name": names,
            "caption": list(pictures.captions),
            "label_map": [None] * len(pngs) if drawn is None else [encode_png(one) for one in drawn],
            "indices": pictures.indices.flatten(1).tolist(),
        }
        write_table(partial / "samples.parquet", SAMPLES, to_table(SAMPLES, samples))
        few = len(pictures.nearest)
        nearest = {
            "sample": pngs[:few],
            "train": [encode_png(image) for image in _pixels(pictures.nearest)],
            "train_id": list(pictures.nearest_ids),
            "rmse": pictures.rmse.tolist(),
            "same_codes": pictures.same_codes.tolist(),
        }
        write_table(partial / "nearest.parquet", NEAREST, to_table(NEAREST, nearest))
        if pictures.completions:
            rows = [completed_row(one, space.classes) for one in pictures.completions]
            write_table(partial / "completions.parquet", COMPLETIONS, to_table(COMPLETIONS, rows))


@reads_whole
def read_prior(folder: Path, device: torch.device | str = "cpu") -> StoredPrior:
    """Read a prior of either form, in eval mode, and what it was made with.

    Raises:
        ArtifactError: no such artifact, or one that is damaged or of another version; another library's model; a
            `config.json` that was changed.
        ParamsError: a kind of prior that is not in `PRIORS`.
    """
    stated = read_config(folder / CONFIG, EXPORTED_PRIOR) if (folder / CONFIG).is_file() else None
    if stated is None:
        read_manifest(folder, PRIOR)
    tensors, facts = read_tensors(folder / MODEL, PRIOR_WEIGHTS)
    if stated not in (None, facts):
        raise ArtifactError(
            f"{folder}: {CONFIG} and {MODEL} differ",
            expected=f"the {CONFIG} that was written with these weights",
        )
    kind = PRIORS[facts["params"]["kind"]]
    config = validate(facts["params"], "params", kind.Params, str(folder))
    height, width = facts["grid"]
    space = ImageSpace(
        tuple(facts["num_codes"]), (height, width), tuple(facts["classes"]), facts["latent_channels"],
        tuple(facts["latent_std"]), facts["resolution"], tuple(facts["map_classes"]),
        facts["text_length"], facts["text_dim"],
    )  # fmt: skip
    prior = kind(config, space)
    prior.load_state_dict(tensors)
    prior = prior.to(device).eval().requires_grad_(False)
    return StoredPrior(prior, MadeWith(**facts["made_with"]), facts)


def _pixels(images: UInt8[Tensor, "n 3 H W"]) -> list[UInt8[np.ndarray, "H W 3"]]:
    return [np.ascontiguousarray(image) for image in images.permute(0, 2, 3, 1).numpy()]
