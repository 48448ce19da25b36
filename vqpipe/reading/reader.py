"""A reader: the alignment's heads trained on the frozen codes of a tokenizer, to see what the codes say of captions.

LG-VQ (arXiv 2405.14206) reports what the heads that were trained with its tokenizer can read. A plain tokenizer has no
such heads, so that a number of theirs says nothing of the codes alone. Here both kinds of tokenizer get fresh heads,
trained for the same steps on codes that stay; an aligned tokenizer's own are measured beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from vqpipe.alignment.aligner import Aligner, code_dims
from vqpipe.alignment.text import TextBatch
from vqpipe.data.loader import ImageSplit, epoch_order
from vqpipe.engine.batches import over_tensors
from vqpipe.engine.loop import fit
from vqpipe.engine.trainable import NoHooks
from vqpipe.errors import MismatchError
from vqpipe.params.align import AlignParams
from vqpipe.params.reading import ReadingParams
from vqpipe.params.training import TrainingParams
from vqpipe.quantizers.contract import QuantizerModule
from vqpipe.reading.frozen_codes import FrozenCodes
from vqpipe.runtime.distributed import own_share, rank
from vqpipe.runtime.seeds import derive, seed_everything
from vqpipe.tokenizers.aligned import Captions
from vqpipe.tokenizers.aligner_folder import load_aligner
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import Clip


@dataclass(frozen=True)
class CodesAndText:
    """A training batch: frozen codes, and one caption for each image."""

    indices: Int64[Tensor, "b g h w"]
    text: TextBatch


@dataclass(frozen=True)
class Reader:
    """Heads trained on frozen codes."""

    aligner: Aligner
    """In eval mode, without gradients."""
    split: ImageSplit
    """The training split."""
    captions: Captions
    """Its captions."""
    facts: dict[str, Any]
    """JSON content: `num_steps`, `num_rollbacks`, `weights` (`ema` or `last`), `loss` at the end, `batch_size`,
    `tokenizer_steps`."""


class ReaderTraining(NoHooks):
    """An aligner over frozen codes as the engine's Trainable: one phase, the aligner's own loss."""

    phases: tuple[str, ...] = ("main",)

    def __init__(self, aligner: Aligner, codes: FrozenCodes) -> None:
        self.module: nn.Module = aligner
        self.aligner, self.codes = aligner, codes

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        """One group, as the aligner has when it is trained with its tokenizer."""
        return [{"params": [p for p in self.aligner.parameters() if p.requires_grad]}]

    def active(self, phase: str, progress: float) -> bool:
        return True

    def networks(self) -> list[nn.Module]:
        return [self.aligner.code_transformer]

    def loss(
        self, phase: str, batch: CodesAndText, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        loss, terms = self.aligner(self.codes.quantized(batch.indices), batch.text, progress)
        return loss, terms


def reader_heads(align: AlignParams, tokenizer: Tokenizer) -> AlignParams:
    """The heads for this tokenizer: without the relationship head where no code vectors take a gradient."""
    assert isinstance(tokenizer.quantizer, QuantizerModule)
    if code_dims(tokenizer.config.quantizer, tokenizer.quantizer):
        return align
    left = align.model_copy(update={"relationship": None})
    if not left.losses():
        raise MismatchError(
            f"quantizer {tokenizer.config.quantizer.kind} has no code vectors for a relationship head, and the reader "
            "has no other",
            expected="read.common.align with global or masked",
        )
    return left


def reader_training(config: ReadingParams, tokenizer: Tokenizer) -> TrainingParams:
    """How the reader is trained: the params' own, or the tokenizer's, whose options for convolutions are left out."""
    if config.training is not None:
        return config.training
    return tokenizer.config.training.model_copy(update={"channels_last": False, "compile": False})


def train_reader(
    tokenizer: Tokenizer,
    dataset: Path,
    clip: Clip,
    config: ReadingParams,
    *,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> Reader:
    """Train fresh heads on a tokenizer's codes of the training split.

    Images are encoded once, centre-cropped and not mirrored; the tokenizer does not change. Each image has one caption
    drawn in each epoch. Weights, order and captions depend on the params' seed alone, not on the tokenizer.

    Args:
        tokenizer: in eval mode, on `device`.
        dataset: the dataset artifact.
        clip: the run's CLIP.
        scratch: folder of the checkpoint; a run that was killed goes on from it.
        curves: where the training curves are published.
        title: names the run on the progress bar.

    Raises:
        DataError: training images without a caption.
        MismatchError: a CLIP that takes shorter captions, or no head that fits the quantizer.
        TrainingError: losses that do not stay finite.
    """
    align, training = reader_heads(config.align, tokenizer), reader_training(config, tokenizer)
    split = ImageSplit.open(dataset, "train", tokenizer.resolution)
    if len(split) < training.batch_size:
        raise MismatchError(
            "fewer training images than one batch of the reader",
            found=f"{len(split)} images",
            expected=f"batch_size of {len(split)} or less",
        )
    changes = {"align": align, "training": training, "seed": config.seed}
    captions = Captions(split, dataset, clip, tokenizer.config.model_copy(update=changes), scratch)
    codes = FrozenCodes.encode(tokenizer, split, np.arange(len(split)), config.batch_size, device)
    aligner = captions.aligner(tokenizer, derive(config.seed, "reader")).to(device).train()
    order = derive(config.seed, "reader", "order")
    seed_everything(config.seed, "reader", "training", rank())

    def batch_at(step: int) -> CodesAndText:
        # Captions are drawn for the whole batch, so that they do not depend on the number of ranks.
        images, share = (
            epoch_order(len(split), training.batch_size, order, step),
            own_share(training.batch_size),
        )
        batch = CodesAndText(codes.rows(images[share]), captions.batch(images, step, share))
        moved: CodesAndText = over_tensors(batch, lambda part: part.to(device, non_blocking=True))
        return moved

    result = fit(
        ReaderTraining(aligner, codes),
        batch_at,
        training,
        scratch=scratch,
        curves=curves,
        device=device,
        title=title,
    )
    aligner.load_state_dict(result.weights)
    facts = {
        "num_steps": result.num_steps, "num_rollbacks": result.num_rollbacks,
        "weights": "ema" if result.averaged else "last", "loss": result.rows[-1]["main/loss"],
        "batch_size": training.batch_size, "tokenizer_steps": tokenizer.config.training.num_steps,
    }  # fmt: skip
    return Reader(aligner.eval().requires_grad_(False), split, captions, facts)


def own_aligner(folder: Path | None, tokenizer: Tokenizer, clip: Clip) -> Aligner | None:
    """The aligner that was trained with the tokenizer, in eval mode; None where it was trained without alignment.

    Raises:
        MismatchError: it was trained with another tokenizer's weights, or read captions with another CLIP.
    """
    stored = load_aligner(folder) if folder is not None else None
    if stored is None:
        return None
    if not stored.belongs_to(tokenizer):
        raise MismatchError(
            f"{folder} was not trained with this tokenizer",
            found="the digest of other weights",
            run="dvc repro tokenizer",
        )
    if stored.facts["clip"] != clip.id:
        raise MismatchError(
            f"{folder} was trained with another CLIP", found=stored.facts["clip"], expected=clip.id
        )
    return stored.aligner
