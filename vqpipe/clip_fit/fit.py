"""The `clip` stage's work: pin a pretrained CLIP or fit a small one, publish it, and measure retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vqpipe.clip_fit.compact import compact_ids, compact_model, restore, used_tokens
from vqpipe.clip_fit.contrastive import ContrastiveFit, Pairs
from vqpipe.clip_fit.retrieval import evaluate_retrieval
from vqpipe.data.loader import ImageSplit, epoch_order, to_float
from vqpipe.data.read import open_split
from vqpipe.engine.curves import write_curves
from vqpipe.engine.loop import fit
from vqpipe.errors import DataError
from vqpipe.params.clip import ClipParams, FitParams
from vqpipe.runtime.distributed import is_main, own_share
from vqpipe.runtime.seeds import numpy_rng, seed_everything
from vqpipe.vision.clip import Clip, resize_to, token_ids, write_clip
from vqpipe.vision.pin import pin
from vqpipe.vision.towers import build_model

VOCAB_SIZE = 49408


def raw_inputs(params: ClipParams) -> list[Path]:
    """The files outside the pipeline that the params name."""
    if params.pretrained is None or params.pretrained.kind == "tag":
        return []
    return [Path(name) for name in (params.pretrained.path, params.pretrained.config) if name is not None]


def make_clip(
    dataset: Path, params: ClipParams, out: Path, curves: Path, scratch: Path, device: torch.device
) -> dict[str, Any]:
    """Publish the CLIP that the pipeline uses and return the stage's metrics (nothing on ranks other than 0).

    Raises:
        SetupError: pretrained weights that cannot be had.
        DataError: no captions to fit to, or too few images for a batch.
    """
    if params.pretrained is None:
        assert params.fit is not None  # the params model sees to it
        train = open_whole(dataset, "train")
        config = open_clip_config(params.fit)
        model, fitted = fit_clip(train, params.fit, config, curves, scratch, device)
        name = f"vit{params.fit.vision.layers}x{params.fit.vision.width}-p{params.fit.vision.patch_size}"
        tag, fitted_on = "fitted", f"the captions of {len(train)} training images"
    else:
        model, config = pin(params.pretrained)
        fitted, fitted_on = {}, None
        name, tag = params.pretrained.model, getattr(params.pretrained, "tag", "file")
    if not is_main():
        return {}
    if params.pretrained is not None:
        write_curves(curves, [])
    facts = write_clip(out, model, config, name=name, tag=tag, fitted_on=fitted_on)
    clip = Clip(model, config["preprocess_cfg"], facts["id"]).to(device)
    retrieval = evaluate_retrieval(clip, open_whole(dataset, "validation"), params.num_retrieval, device)
    return {"id": facts["id"], "num_parameters": facts["num_parameters"], **fitted, **retrieval}


def open_whole(dataset: Path, split: str) -> ImageSplit:
    """A split at the largest square that all images of the dataset hold; CLIP resizes from there."""
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
) -> tuple[nn.Module, dict[str, Any]]:
    """Fit a CLIP to a split's captions, one drawn for each image and step.

    Returns:
        The full model on the CPU, and how the training ended.
    """
    captions = Captions(train.captions, params.text.context_length)
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

    def batch_at(step: int) -> Pairs:
        # Crops and flips are drawn for the whole batch, so that they do not depend on the number of ranks.
        picked = epoch_order(len(captions.rows), batch_size, params.seed, step)
        crops, share = numpy_rng(params.seed, "clip", "crops", step, 0), own_share(batch_size)
        images = to_float(train.gather(captions.rows[picked], crops, params.crop, params.flip, share))
        images = resize_to(
            images, params.vision.image_size, preprocess["interpolation"], preprocess["resize_mode"]
        )
        return Pairs(images.to(device), ids[captions.draw(picked[share], params.seed, step)].to(device))

    trainable = ContrastiveFit(model, params.max_logit_scale)
    result = fit(
        trainable, batch_at, params.training, scratch=scratch, curves=curves, device=device, title="clip"
    )
    restore(full, {name: tensor.cpu() for name, tensor in result.weights.items()}, used)
    last = result.rows[-1]
    return full, {
        "num_steps": result.num_steps, "num_rollbacks": result.num_rollbacks, "num_tokens_fitted": len(used),
        "loss": last["main/loss"], "accuracy": last["main/accuracy"], "temperature": last["main/temperature"],
        "weights": "ema" if result.averaged else "last",
    }  # fmt: skip


class Captions:
    """The token ids of a split's captions, and the deterministic draw of one per image and step."""

    def __init__(self, captions: list[list[str]], context_length: int) -> None:
        counts = np.array([len(own) for own in captions], dtype=np.int64)
        self.rows = np.flatnonzero(counts)
        """The images that have captions."""
        self.counts = counts[self.rows]
        self.starts = np.cumsum(self.counts) - self.counts
        texts = [text for own in captions for text in own]
        self.ids: Tensor = token_ids(texts, context_length)

    def draw(self, picked: np.ndarray, seed: int, step: int) -> Tensor:
        """Row numbers in `ids` of one caption for each picked image; it does not depend on the ranks."""
        chances = numpy_rng(seed, "clip", "captions", step).random(len(self.rows))[picked]
        offsets = np.minimum((chances * self.counts[picked]).astype(np.int64), self.counts[picked] - 1)
        return torch.from_numpy(self.starts[picked] + offsets)
