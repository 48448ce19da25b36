"""A prior as a folder to share: safetensors, configs and a model card, with its tokenizer and its text encoder.

    README.md  config.json  model.safetensors                the prior, and its card
    tokenizer/                                               the same three files of its tokenizer
    clip/model.safetensors                                   the whole CLIP of a prior of texts

`ImagePrior.from_pretrained` reads it, from a folder or from the Hub, and draws the same images as from the artifact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from pydantic import BaseModel

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.exported import EXPORTED_PRIOR
from vqpipe.artifacts.specs.prior import PRIOR_WEIGHTS
from vqpipe.artifacts.specs.tokenizer import TOKENIZER, WEIGHTS
from vqpipe.errors import MismatchError
from vqpipe.library.cards import prior_card, signed, tokenizer_card
from vqpipe.library.clips import copy_clip
from vqpipe.library.places import need_own
from vqpipe.library.priors import CLIP_FOLDER, TOKENIZER_FOLDER, ImagePrior
from vqpipe.priors.artifact import prior_digest
from vqpipe.priors.measure import PriorMetrics
from vqpipe.tokenizers.identity import SHOWN
from vqpipe.tokenizers.stored import LIBRARY, write_config_folder

PIPELINES = {"none": "unconditional-image-generation", "text": "text-to-image"}
"""The Hub's tasks by condition; it has none for classes and maps."""


@dataclass(frozen=True)
class Measured:
    """What a card shows of a prior's metrics."""

    rows: list[tuple[str, Any, str]]
    """Name in the metrics file, value, and the first sentence of its description."""
    num_samples: int
    features: str


def export_prior(
    image_prior: ImagePrior, out: Path, metrics: Path | None = None, license: str | None = None
) -> None:
    """Publish a prior, its tokenizer, its text encoder and a model card as one folder.

    Args:
        metrics: what the stage `prior` measured of it, a JSON file.
        license: a name of the Hub's list, for the head of the card.

    Raises:
        ArtifactError: `out` is something else that this would overwrite, or has files of others; metrics that
            cannot be read.
        MismatchError: metrics of another prior, or a text encoder from a folder of this machine.
    """
    need_own(out, EXPORTED_PRIOR, [CLIP_FOLDER])
    prior, stored, tokenizer = image_prior.prior, image_prior.stored, image_prior.tokenizer
    text = prior.config.text
    if text is not None and text.model is not None and "/" in text.model:
        raise MismatchError(
            "the text encoder is a folder of this machine, which others do not have", found=text.model,
            expected="text.model: an installed package, or encoder: clip, when the prior is trained",
        )  # fmt: skip
    measured = read_measured(metrics, image_prior) if metrics is not None else None
    card = _front(prior.config.condition, license) + prior_card(prior, tokenizer, stored.facts, measured)
    with publish_folder(out, EXPORTED_PRIOR, stored.facts) as folder:
        write_config_folder(folder, prior.state_dict(), stored.facts, EXPORTED_PRIOR, PRIOR_WEIGHTS)
        (folder / TOKENIZER_FOLDER).mkdir()
        facts, own = tokenizer.described(tokenizer.facts), folder / TOKENIZER_FOLDER
        write_config_folder(own, tokenizer.state_dict(), facts, TOKENIZER, WEIGHTS)
        (folder / TOKENIZER_FOLDER / "README.md").write_text(
            signed(tokenizer_card(tokenizer)), encoding="utf-8"
        )
        if image_prior.clip_folder is not None:
            (folder / CLIP_FOLDER).mkdir()
            copy_clip(image_prior.clip_folder, folder / CLIP_FOLDER)
        (folder / "README.md").write_text(card, encoding="utf-8")


def read_measured(path: Path, image_prior: ImagePrior) -> Measured:
    """The numbers of a prior's metrics file, with the doc strings of their fields.

    Raises:
        ArtifactError: not the metrics of a prior.
        MismatchError: of another prior.
    """
    metrics = PriorMetrics.read(path)
    own = prior_digest(image_prior.prior, image_prior.stored.facts)
    if metrics.sha256 != own:
        raise MismatchError(
            f"{path} has the numbers of another prior",
            found=f"sha256 {metrics.sha256[:SHOWN]}…, condition {metrics.condition}, "
            f"{metrics.num_parameters:,} parameters",
            expected=f"sha256 {own[:SHOWN]}…, the metrics that the stage wrote with this prior",
        )  # fmt: skip
    features = str(metrics.measured.protocol.get("features", "not stated"))
    return Measured(list(_rows(metrics, "")), metrics.num_samples, features)


def _rows(content: BaseModel, prefix: str) -> Iterator[tuple[str, Any, str]]:
    """The numbers of a metrics model and of those within it; the record of what was measured is left out."""
    for name, field in type(content).model_fields.items():
        value, about = getattr(content, name), _first_sentence(field.description or "")
        if name == "measured" or value is None:
            continue
        yield from _row(f"{prefix}{name}", value, about.rstrip("."))


def _first_sentence(text: str) -> str:
    """Up to the first full stop before a capital; that of "et al." and the like is none."""
    return re.split(r"(?<!et al)\. (?=[A-Z])", " ".join(text.split()))[0]


def _row(name: str, value: Any, about: str) -> Iterator[tuple[str, Any, str]]:
    if isinstance(value, BaseModel):
        yield from _rows(value, f"{name}.")
    elif isinstance(value, Mapping):
        for key, own in value.items():
            yield from _row(f"{name}.{key}", own, about)
    elif isinstance(value, int | float | str):
        yield name, value, about


def _front(condition: str, license: str | None) -> str:
    """The head of the card, which the Hub reads."""
    data: dict[str, Any] = {"library_name": LIBRARY, "tags": ["image-generation", "vector-quantization"]}
    data |= {"license": license} if license else {}
    data |= {"pipeline_tag": PIPELINES[condition]} if condition in PIPELINES else {}
    return f"---\n{ModelCardData(**dict(sorted(data.items()))).to_yaml()}\n---\n\n"
