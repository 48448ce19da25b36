"""The captions of a batch as the alignment losses take them: token ids, words, and one frozen feature each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor


@dataclass(frozen=True)
class TextBatch:
    """One caption for each image of a batch.

    Nothing here was made by an encoder that saw the whole caption but `features`, so that a word which is masked
    leaves no trace in the others.
    """

    tokens: Int64[Tensor, "b t"]
    """CLIP's byte-pair ids: start, text, end, padding. Padding may be any id: `lengths` says where it begins."""
    lengths: Int64[Tensor, " b"]
    """Real tokens of each caption, start and end included; 0 for a caption that is not there."""
    words: Int64[Tensor, "b t"]
    """The number of the word that a token is part of, counted from 0 in the caption; -1 for start, end, padding and
    signs such as a full stop, which are no words: they are never masked and stand for no code."""
    features: Float32[Tensor, "b e"]
    """The frozen CLIP's global text feature (the end token's, projected), not normalised."""

    def real(self) -> Bool[Tensor, "b t"]:
        """Which tokens are no padding."""
        steps = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return steps < self.lengths[:, None]

    def trimmed(self) -> TextBatch:
        """Without the columns that are padding in every caption; one column at least stays."""
        longest = max(1, int(self.lengths.max())) if len(self.lengths) else 1
        return TextBatch(self.tokens[:, :longest], self.lengths, self.words[:, :longest], self.features)
