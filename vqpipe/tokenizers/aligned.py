"""What a variant with `align` adds to a training: a caption for each image, and the aligner that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from vqpipe.alignment.aligner import Aligner, code_dims
from vqpipe.alignment.text import TextBatch
from vqpipe.data.caption_draw import epoch_of, split_draw
from vqpipe.data.loader import ImageSplit
from vqpipe.data.read import open_split
from vqpipe.errors import MismatchError
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.quantizers.contract import QuantizerModule
from vqpipe.runtime.seeds import derive
from vqpipe.tokenizers.caption_text import CaptionText, token_rows
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import Clip


class Captions:
    """The captions of a training split, one of which is drawn for each image and epoch; see `CaptionDraw`.

    Args:
        split: the training split.
        dataset: the dataset artifact.
        clip: the run's CLIP.
        config: the variant, which has `align`.
        folder: where text features are kept between a killed run and the next.

    Raises:
        DataError: images without a caption.
        MismatchError: no CLIP, or captions longer than it takes.
    """

    def __init__(
        self, split: ImageSplit, dataset: Path, clip: Clip | None, config: TokenizerParams, folder: Path
    ) -> None:
        assert config.align is not None
        self._draw = split_draw(split, config.seed, f"{dataset}, split train")
        if clip is None:
            raise MismatchError(
                "a variant with align needs a CLIP for the captions",
                found="none",
                expected="the option --clip",
            )
        self.clip, self.align, self._batch_size = clip, config.align, config.training.batch_size
        self.text = CaptionText(split.captions, clip, config.align.max_tokens, folder)
        self.vocabulary: Int64[Tensor, " v"] = torch.from_numpy(
            np.union1d(self.text.vocabulary.numpy(), _other_tokens(dataset, config.align.max_tokens))
        )
        """The token ids of all splits' captions, rising: those of the others are wrong answers in training, and can be
        read and given in a later measurement. Nothing else of the other splits is used."""

    def batch(self, images: Int64[np.ndarray, " b"], step: int, share: slice) -> TextBatch:
        """The captions of a step's images, on the CPU.

        Args:
            images: positions in the split, of the batch of all ranks.
            step: number of the step, from 0.
            share: this rank's part of the batch.
        """
        return self.text.batch(self._numbers(images, step), share)

    def names_side(self, images: Int64[np.ndarray, " b"], step: int) -> Bool[np.ndarray, " b"]:
        """Which of a step's images have a caption there that says left or right, so that they must not be mirrored."""
        return self.text.names_side(self._numbers(images, step))

    def _numbers(self, images: Int64[np.ndarray, " b"], step: int) -> Int64[np.ndarray, " b"]:
        return self._draw.numbers(images, epoch_of(step, len(self._draw.counts), self._batch_size))

    def metrics(self) -> dict[str, Any]:
        """As `CaptionText.metrics`, and `num_tokens_of_all_splits`, the size of the vocabulary."""
        return {**self.text.metrics(), "num_tokens_of_all_splits": len(self.vocabulary)}

    def aligner(self, tokenizer: Tokenizer, seed: int) -> Aligner:
        """A fresh aligner for a tokenizer, on the CPU. Its weights are of a stream of their own, so that those of the
        tokenizer and the discriminator are the same with and without it."""
        (height, width), quantizer = tokenizer.grid, tokenizer.config.quantizer
        table = self.clip.token_embeddings()
        assert isinstance(tokenizer.quantizer, QuantizerModule)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(seed, "aligner"))
            return Aligner(
                self.align,
                num_positions=height * width,
                latent_dim=quantizer.dim,
                code_dims=code_dims(quantizer, tokenizer.quantizer),
                vocabulary=self.vocabulary,
                embeddings=table[self.vocabulary.to(table.device)].cpu(),
                text_dim=self.clip.embed_dim,
            )


def _other_tokens(dataset: Path, max_tokens: int) -> Int64[np.ndarray, " v"]:
    """The distinct token ids of the captions of all splits but the training split, cut as those are."""
    texts: dict[str, None] = {}
    train = open_split(dataset, "train")
    for name in sorted(set(train.facts["splits"]) - {"train"}):
        for batch in open_split(dataset, name).batches(["captions"]):
            texts |= dict.fromkeys(text for own in batch.column("captions").to_pylist() for text in own or ())
    rows = token_rows(list(texts), max_tokens)
    real = np.arange(rows.ids.shape[1]) < rows.lengths[:, None]
    return np.unique(rows.ids[real]).astype(np.int64)
