"""The `clip` stage's work: load a pretrained CLIP or fit a small one, publish it, and measure retrieval.

Fitting is contrastive: symmetric InfoNCE of images and captions (Radford et al. 2021, figure 3). CLIP's table has
49,408 rows, and an optimiser that visits all of them spends most of its time on rows that no caption uses; so while
it is fitted the model has the rows of the corpus's tokens alone. The published model has the full table: rows of unseen
tokens have their initial values.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from vqpipe.artifacts.metrics import Metrics
from vqpipe.data.loader import ImageSplit, epoch_order, to_float
from vqpipe.data.read import open_split
from vqpipe.errors import DataError
from vqpipe.params.base import Params
from vqpipe.runtime.distributed import is_main, own_share
from vqpipe.runtime.seeds import numpy_rng, seed_everything
from vqpipe.training.loop import run_training as train_loop
from vqpipe.training.loop import write_curves
from vqpipe.training.objective import Objective, TrainingParams
from vqpipe.vision.clip import Clip, resize_to, token_ids, write_clip
from vqpipe.vision.pin import Source, load_pretrained_clip
from vqpipe.vision.towers import build_model, encode_ids, text_length

VOCAB_SIZE = 49408
"""Byte-pair tokens of CLIP."""


BATCH = 128
"""Images that retrieval embeds at once."""


RANKS = (1, 5)
"""The r of R@r."""


TABLE = "token_embedding.weight"


class VisionTower(Params):
    """A vision transformer."""

    image_size: Annotated[int, Field(ge=8)]
    """Side of the square input, in pixels."""
    patch_size: Annotated[int, Field(ge=1)]
    """Side of a patch, in pixels; divides `image_size`."""
    width: Annotated[int, Field(ge=8)]
    """Channels; a multiple of `head_width`."""
    layers: Annotated[int, Field(ge=1)]
    """Transformer blocks."""
    head_width: Annotated[int, Field(ge=1)]
    """Channels per attention head."""
    patch_dropout: Annotated[float, Field(ge=0, lt=1)]
    """Part of the patches left out of each training image: cheaper steps (FLIP, Li et al. 2023)."""
    pool: Literal["tok", "avg"]
    """The image embedding is taken from the class token, or from the mean of the patches."""

    @model_validator(mode="after")
    def _divides(self) -> VisionTower:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.width % self.head_width:
            raise ValueError(f"head_width {self.head_width} does not divide width {self.width}")
        return self


class TextTower(Params):
    """A causal text transformer over CLIP's 49,408 byte-pair tokens."""

    context_length: Annotated[int, Field(ge=4)]
    """Tokens per text, start and end included; longer texts are cut."""
    width: Annotated[int, Field(ge=8)]
    """Channels; a multiple of `heads`."""
    heads: Annotated[int, Field(ge=1)]
    """Attention heads."""
    layers: Annotated[int, Field(ge=1)]
    """Transformer blocks."""

    @model_validator(mode="after")
    def _divides(self) -> TextTower:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class FitParams(Params):
    """Fitting a small CLIP to the training captions: architecture, contrastive loss and optimisation."""

    seed: Annotated[int, Field(ge=0)]
    """Seed of the weights, the order of the images, the crops and the caption drawn for each image."""
    embed_dim: Annotated[int, Field(ge=1)]
    """Dimension of the shared image-text space."""
    vision: VisionTower
    """The image tower."""
    text: TextTower
    """The text tower."""
    initial_temperature: Annotated[float, Field(gt=0)]
    """Softmax temperature of the contrastive loss at the start; it is learned."""
    max_logit_scale: Annotated[float, Field(gt=0)]
    """Upper bound of the inverse temperature (100 in CLIP)."""
    crop: Literal["centre", "random"]
    """How a training image is cut to the tower's resolution."""
    flip: bool
    """Mirror training images at random; leave it off where captions mention left and right."""
    training: TrainingParams
    """Optimiser, schedule and averaging; `accumulate` stays 1."""

    @model_validator(mode="after")
    def _whole_batches(self) -> FitParams:
        if self.training.accumulate > 1:
            raise ValueError(
                "training.accumulate must be 1: each caption is compared with all images of its batch, so the loss "
                "of micro-batches is another one"
            )
        return self


class ClipParams(Params):
    """The `clip` section."""

    pretrained: Source | None = None
    """A pretrained CLIP, or null to fit a small one to the data set's training captions."""
    fit: FitParams | None = None
    """How to fit; required where `pretrained` is null, unused otherwise."""
    num_retrieval: Annotated[int, Field(ge=2)]
    """Validation images, from the first on, among which retrieval is measured; recall depends on it."""

    @model_validator(mode="after")
    def _one_source(self) -> ClipParams:
        if self.pretrained is None and self.fit is None:
            raise ValueError("pretrained is null, so the section `fit` must say how to fit a CLIP")
        return self


class FitMetrics(Metrics):
    """How the fit of a CLIP ended; None in all fields for a pretrained one."""

    num_steps: int | None = None
    """Optimiser steps."""
    num_rollbacks: int | None = None
    """Returns to a checkpoint after a loss that was not finite."""
    num_tokens_fitted: int | None = None
    """Byte-pair tokens that the captions use."""
    loss: float | None = None
    """InfoNCE in nats over the last logged steps; lower is better."""
    accuracy: float | None = None
    """Share of a batch's images whose own caption has the highest score, in [0, 1]; higher is better."""
    temperature: float | None = None
    """Of the softmax, learned."""
    weights: Literal["ema", "last"] | None = None
    """Which weights were published: averaged, or those of the last step."""


class RetrievalMetrics(Metrics):
    """Image-text retrieval: recall among the r best candidates, and that of a random order; in [0, 1], higher is
    better."""

    num_validation: int
    """Images."""
    num_texts: int
    """Different captions of these images."""
    image_to_text_r1: float
    """Share of images with one of their captions first."""
    image_to_text_r5: float
    """Share of images with one of their captions among the first five."""
    text_to_image_r1: float
    """Share of captions with one of their images first."""
    text_to_image_r5: float
    """Share of captions with one of their images among the first five."""
    chance_image_to_text_r1: float
    """Of a random order."""
    chance_image_to_text_r5: float
    """Of a random order."""
    chance_text_to_image_r1: float
    """Of a random order."""
    chance_text_to_image_r5: float
    """Of a random order."""


class ClipMetrics(FitMetrics, RetrievalMetrics):
    """What the `clip` stage measures, on the validation split."""

    id: str
    """NAME:TAG:DIGEST of the CLIP."""
    num_parameters: int
    """Of both towers."""


def make_clip(
    dataset: Path, params: ClipParams, out: Path, curves: Path, scratch: Path, device: torch.device
) -> ClipMetrics | None:
    """Publish the CLIP that the pipeline uses and return the stage's metrics (None on ranks other than 0).

    Raises:
        SetupError: pretrained weights that cannot be fetched.
        DataError: no captions to fit to, or too few images for a batch.
    """
    if params.pretrained is None:
        assert params.fit is not None  # the params model requires it
        train = open_whole(dataset, "train")
        config = open_clip_config(params.fit)
        model, fitted = fit_clip(train, params.fit, config, curves, scratch, device)
        name = f"vit{params.fit.vision.layers}x{params.fit.vision.width}-p{params.fit.vision.patch_size}"
        tag, fitted_on = "fitted", f"the captions of {len(train)} training images"
    else:
        model, config = load_pretrained_clip(params.pretrained)
        fitted, fitted_on = FitMetrics(), None
        name, tag = params.pretrained.model, getattr(params.pretrained, "tag", "file")
    if not is_main():
        return None
    if params.pretrained is not None:
        write_curves(curves, [])
    facts = write_clip(out, model, config, name=name, tag=tag, fitted_on=fitted_on)
    clip = Clip(model, config["preprocess_cfg"], facts["id"]).to(device)
    retrieval = evaluate_retrieval(clip, open_whole(dataset, "validation"), params.num_retrieval, device)
    return ClipMetrics(
        id=facts["id"], num_parameters=facts["num_parameters"], **fitted.plain(), **retrieval.plain()
    )


def raw_inputs(params: ClipParams) -> list[Path]:
    """The files outside the pipeline that the params name."""
    if params.pretrained is None or params.pretrained.kind == "tag":
        return []
    return [Path(name) for name in (params.pretrained.path, params.pretrained.config) if name is not None]


def open_whole(dataset: Path, split: str) -> ImageSplit:
    """A split at the largest square that fits into all images of the dataset; CLIP resizes from there."""
    return ImageSplit.open(dataset, split, int(open_split(dataset, split).facts["resolution"]))


def open_clip_config(params: FitParams) -> dict[str, Any]:
    """The open_clip config (`model_cfg`, `preprocess_cfg`) of a CLIP to be fitted."""
    vision, text = params.vision, params.text
    return {
        "model_cfg": {
            "embed_dim": params.embed_dim,
            "init_logit_scale": float(np.log(1 / params.initial_temperature)),
            "vision_cfg": {
                "image_size": vision.image_size, "patch_size": vision.patch_size, "width": vision.width,
                "layers": vision.layers, "head_width": vision.head_width, "pool_type": vision.pool,
                "patch_dropout": vision.patch_dropout,
            },
            "text_cfg": {
                "context_length": text.context_length, "vocab_size": VOCAB_SIZE, "width": text.width,
                "heads": text.heads, "layers": text.layers,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic", "resize_mode": "shortest",
        },
    }  # fmt: skip


def fit_clip(
    train: ImageSplit,
    params: FitParams,
    config: dict[str, Any],
    curves: Path,
    scratch: Path,
    device: torch.device,
) -> tuple[nn.Module, FitMetrics]:
    """Fit a CLIP to a split's captions, one drawn for each image and step.

    Returns:
        The full model on the CPU, and how the training ended.
    """
    captions = CaptionDraws(train.captions, params.text.context_length)
    batch_size = params.training.batch_size
    if len(captions.rows) < batch_size:
        raise DataError(
            "too few captioned training images to fit a CLIP",
            found=f"{len(captions.rows)} of {len(train)} images",
            expected=f"at least clip.fit.training.batch_size = {batch_size}",
        )
    seed_everything(params.seed, "clip", "weights")
    full = build_model(config["model_cfg"], "to be fitted")
    used = used_tokens(captions.ids)
    model = compact_model(full, config["model_cfg"], used).to(device)
    ids = compact_ids(captions.ids, used)
    preprocess = config["preprocess_cfg"]

    def batch_at(step: int) -> ImageTextBatch:
        # Crops and flips are drawn for the whole batch, so that they do not depend on the number of ranks.
        picked = epoch_order(len(captions.rows), batch_size, params.seed, step)
        crops, share = numpy_rng(params.seed, "clip", "crops", step, 0), own_share(batch_size)
        images = to_float(train.gather(captions.rows[picked], crops, params.crop, params.flip, share))
        images = resize_to(
            images, params.vision.image_size, preprocess["interpolation"], preprocess["resize_mode"]
        )
        drawn = captions.draw(picked[share], params.seed, step)
        own = ids[drawn]
        return ImageTextBatch(images, own[:, : text_length(own)], captions.texts[drawn])

    trainable = ContrastiveTraining(model, params.max_logit_scale)
    result = train_loop(
        trainable, batch_at, params.training, scratch=scratch, curves=curves, device=device, title="clip"
    )
    restore_full_table(full, {name: tensor.cpu() for name, tensor in result.weights.items()}, used)
    last = result.rows[-1]
    return full, FitMetrics(
        num_steps=result.num_steps,
        num_rollbacks=result.num_rollbacks,
        num_tokens_fitted=len(used),
        loss=last["main/loss"],
        accuracy=last["main/accuracy"],
        temperature=last["main/temperature"],
        weights="ema" if result.averaged else "last",
    )


class CaptionDraws:
    """The token ids of a split's captions, and the deterministic draw of one per image and step."""

    def __init__(self, captions: list[list[str]], context_length: int) -> None:
        counts = np.array([len(own) for own in captions], dtype=np.int64)
        self.rows = np.flatnonzero(counts)
        """The images that have captions."""
        self.counts = counts[self.rows]
        self.starts = np.cumsum(self.counts) - self.counts
        texts = [text for own in captions for text in own]
        self.ids: Tensor = token_ids(texts, context_length)
        self.texts: Tensor = torch.unique(self.ids, dim=0, return_inverse=True)[1]
        """A number for each row of `ids`; equal rows have the same."""

    def draw(self, picked: np.ndarray, seed: int, step: int) -> Tensor:
        """Row numbers in `ids` of one caption for each picked image; it does not depend on the ranks."""
        chances = numpy_rng(seed, "clip", "captions", step).random(len(self.rows))[picked]
        offsets = np.minimum((chances * self.counts[picked]).astype(np.int64), self.counts[picked] - 1)
        return torch.from_numpy(self.starts[picked] + offsets)


@dataclass(frozen=True)
class ImageTextBatch:
    """One batch: normalised images of the tower's size and the token ids of one caption each."""

    images: Float[Tensor, "b 3 s s"]
    ids: Int[Tensor, "b t"]
    """Cut after the longest text of the batch."""
    texts: Int[Tensor, " b"]
    """A number for each text; equal texts have the same."""


class ContrastiveTraining(Objective):
    """A CLIP and its contrastive loss.

    With several ranks, the features of all ranks are compared with each other, so that the loss is that of
    the global batch.
    """

    def __init__(self, model: nn.Module, max_logit_scale: float) -> None:
        self.module = model
        self.max_log_scale = float(torch.tensor(max_logit_scale).log())

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        """Matrices decay; gains, biases, embeddings and the temperature do not."""
        decay: list[nn.Parameter] = []
        no_decay: list[nn.Parameter] = []
        for name, parameter in self.module.named_parameters():
            (no_decay if parameter.ndim < 2 or "embedding" in name else decay).append(parameter)
        return [{"params": decay}, {"params": no_decay, "weight_decay": 0.0}]

    def unused(self, phase: str) -> bool:
        """The loss reaches all parameters."""
        return False

    def networks(self) -> list[nn.Module]:
        """The towers' blocks."""
        return [self.module.visual.transformer, self.module.transformer]  # type: ignore[list-item, union-attr]

    def loss(
        self, phase: str, batch: ImageTextBatch, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """InfoNCE, and the accuracy of picking a batch's own caption for each image."""
        image = normalize(self.module.encode_image(batch.images), dim=-1)  # type: ignore[operator]
        text = normalize(encode_ids(self.module, batch.ids, batch.ids.shape[1]), dim=-1)
        image, text, texts = _gather(image), _gather(text), _gather(batch.texts)
        # In place, as in open_clip: a clamp in the pass would leave no gradient to come back by.
        with torch.no_grad():
            self.module.logit_scale.clamp_(max=self.max_log_scale)  # type: ignore[operator]
        scale = self.module.logit_scale.exp()  # type: ignore[operator]
        loss, accuracy = info_nce(image, text, scale, texts[:, None] == texts)
        return loss, {"accuracy": accuracy, "temperature": 1 / scale.detach()}


def info_nce(
    image: Float[Tensor, "b e"],
    text: Float[Tensor, "b e"],
    scale: Float[Tensor, ""],
    same: Bool[Tensor, "b b"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean of the image-to-text and the text-to-image cross-entropy, and the image-to-text accuracy.

    Args:
        image, text: unit vectors; row i of one belongs to row i of the other.
        scale: inverse temperature.
        same: pairs of rows with the same caption. Off the diagonal they are not negatives, and are left out.
    """
    logits = scale * image @ text.T
    own = torch.eye(len(image), dtype=torch.bool, device=image.device)
    logits = logits.masked_fill(same & ~own, float("-inf"))
    target = torch.arange(len(image), device=image.device)
    loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    return loss, (logits.detach().argmax(dim=1) == target).float().mean()


def _gather(rows: Tensor) -> Tensor:
    """The rows of all ranks, in rank order; gradients flow back to the rank that a row came from."""
    if not dist.is_initialized():
        return rows
    if not rows.requires_grad:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(rows)))  # type: ignore[no-untyped-call]


def used_tokens(ids: Int[Tensor, "n t"]) -> Int[Tensor, "v"]:
    """The distinct token ids of a corpus, rising; the end token, the largest id of all, stays last."""
    return torch.unique(ids)


def compact_ids(ids: Int[Tensor, "n t"], used: Int[Tensor, "v"]) -> Int[Tensor, "n t"]:
    """Positions of the ids in `used`."""
    return torch.searchsorted(used, ids)


def compact_model(full: nn.Module, model_cfg: Mapping[str, Any], used: Int[Tensor, "v"]) -> nn.Module:
    """A copy of `full` whose token table has the rows `used` alone."""
    config = copy.deepcopy(dict(model_cfg))
    config["text_cfg"]["vocab_size"] = len(used)
    model = build_model(config, "compact")
    weights = full.state_dict()
    model.load_state_dict({**weights, TABLE: weights[TABLE][used]})
    return model


def restore_full_table(full: nn.Module, weights: Mapping[str, Tensor], used: Int[Tensor, "v"]) -> None:
    """Put the weights of a compact model back into the full one."""
    table = full.state_dict()[TABLE].clone()
    table[used] = weights[TABLE].to(table)
    full.load_state_dict({**weights, TABLE: table})


def evaluate_retrieval(
    clip: Clip, split: ImageSplit, num_images: int, device: torch.device
) -> RetrievalMetrics:
    """Recall among the first `num_images` captioned images of a split and all their distinct captions.

    An image's captions are right for it, also where other images share the text. Chance is the recall of a
    random order of the candidates.

    Raises:
        DataError: fewer than two captioned images.
    """
    rows = [row for row in range(len(split)) if split.captions[row]][:num_images]
    if len(rows) < 2:
        raise DataError(
            "retrieval needs validation images with captions", found=f"{len(rows)}", expected="2 or more"
        )
    texts = sorted({text for row in rows for text in split.captions[row]})
    right = positives([split.captions[row] for row in rows], texts)
    with torch.no_grad():
        parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        images = torch.cat(
            [
                clip.encode_image(to_float(split.gather(part, None, "centre", False)).to(device))
                for part in parts
            ]
        )
        words = clip.encode_text(texts)
        similarity = (normalize(images, dim=-1) @ normalize(words, dim=-1).T).cpu()
    found: dict[str, float] = {}
    for name, scores, truth in (
        ("image_to_text", similarity, right),
        ("text_to_image", similarity.T, right.T),
    ):
        for rank in RANKS:
            found[f"{name}_r{rank}"] = recall(scores, truth, rank)
            found[f"chance_{name}_r{rank}"] = chance(truth, rank)
    return RetrievalMetrics(num_validation=len(rows), num_texts=len(texts), **found)  # type: ignore[arg-type]


def positives(captions: Sequence[Sequence[str]], texts: Sequence[str]) -> Bool[Tensor, "n t"]:
    """Which of the distinct `texts` are captions of which image."""
    column = {text: number for number, text in enumerate(texts)}
    right = torch.zeros(len(captions), len(texts), dtype=torch.bool)
    for row, own in enumerate(captions):
        right[row, [column[text] for text in own]] = True
    return right


def recall(scores: Float[Tensor, "q c"], right: Bool[Tensor, "q c"], rank: int) -> float:
    """Share of queries with a right candidate among the `rank` best; ties go to the earlier candidate."""
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :rank]
    return float(right.gather(1, best).any(dim=1).double().mean())


def chance(right: Bool[Tensor, "q c"], rank: int) -> float:
    """Expected recall of a random order: the mean of 1 - C(c - p, rank) / C(c, rank), p right of c."""
    total = right.shape[1]
    counts, weights = torch.unique(right.sum(dim=1), return_counts=True)
    ways = comb(total, min(rank, total))
    hits = [
        (1 - comb(total - int(p), min(rank, total)) / ways) * int(w)
        for p, w in zip(counts, weights, strict=True)
    ]
    return sum(hits) / right.shape[0]
