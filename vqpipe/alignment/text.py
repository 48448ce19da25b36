"""The captions of a batch, and the corpus's byte-pair tokens with CLIP's frozen input embeddings.

CLIP knows 49,408 tokens and a corpus some thousands: predicting a masked word among the corpus's own is the same task
at a fraction of the cost.

The length of a CLIP's input embeddings depends on its training: .4 in ViT-B/32 (width 512), .23 in a small one of width
64. Masked text prediction adds them to positions and takes its logits against them, both of which need a known length.
So all are multiplied by one constant, which leaves cosines and relative lengths as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from vqpipe.errors import MismatchError
from vqpipe.runtime.distributed import average, world_size


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
    signs such as a full stop, which are no words: they are never masked and no code is assigned to them."""
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


class CorpusVocabulary(nn.Module):
    """Rows of CLIP's table of input embeddings, in the order of their ids; nothing here is trained.

    `embeddings` are scaled by one constant, so that the mean of their squared lengths is 1. Their dot products with
    vectors whose components have variance 1 then have a variance of 1 for any width.

    Args:
        ids: (v,), the byte-pair ids that occur in the captions, start and end included; in any order.
        embeddings: (v, w), the input embedding of each.

    Raises:
        MismatchError: no ids, ids that repeat, another number of embeddings than ids, or embeddings that are not
            finite or all 0.
    """

    ids: Tensor
    embeddings: Tensor

    def __init__(self, ids: Int64[Tensor, " v"], embeddings: Float[Tensor, "v w"]) -> None:
        super().__init__()
        if ids.ndim != 1 or embeddings.ndim != 2 or len(ids) != len(embeddings) or not len(ids):
            raise MismatchError(
                "the corpus's tokens and their embeddings do not fit",
                found=f"ids {tuple(ids.shape)}, embeddings {tuple(embeddings.shape)}",
                expected="(v,) and (v, w) with v of at least 1",
            )
        order = ids.argsort()
        ids, embeddings = ids[order].long(), embeddings[order].detach().float()
        repeated = ids[1:][ids[1:] == ids[:-1]]
        if len(repeated):
            raise MismatchError("the corpus's tokens repeat", found=_some(repeated), expected="each id once")
        if not bool(embeddings.isfinite().all()):
            raise MismatchError("the tokens' embeddings are not finite", expected="a sound CLIP")
        length = embeddings.double().square().sum(dim=1).mean().sqrt()
        if not bool(length > 0):
            raise MismatchError("the tokens' embeddings are all 0", expected="a sound CLIP")
        self.register_buffer("ids", ids)
        self.register_buffer("embeddings", (embeddings / length).float())

    @property
    def word_dim(self) -> int:
        """w, the width of the embeddings."""
        return int(self.embeddings.shape[1])

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, tokens: Int64[Tensor, "b t"], real: Bool[Tensor, "b t"]) -> Int64[Tensor, "b t"]:
        """The row of each token, in [0, v); padding gets any.

        Raises:
            MismatchError: a real token that is not in the corpus. Call it with all captions before a training, so
                that this is found there.
        """
        found = torch.searchsorted(self.ids, tokens.contiguous()).clamp_max(len(self.ids) - 1)
        missing = tokens[real & (self.ids[found] != tokens)]
        if len(missing):
            raise MismatchError(
                "captions contain byte-pair tokens that are not in the corpus's vocabulary",
                found=_some(torch.unique(missing)),
                expected=f"the vocabulary's {len(self.ids)} tokens; make it from these captions too",
            )
        return found


def _some(ids: Tensor) -> str:
    shown = ", ".join(str(i) for i in ids[:8].tolist())
    return f"{len(ids)} ids: {shown}" + (", .." if len(ids) > 8 else "")


def unit(rows: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Rows of length 1; those shorter than 1e-6 are divided by 1e-6."""
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-6)


def mean_of(total: Float[Tensor, ""], count: Tensor, over_ranks: bool) -> Float[Tensor, ""]:
    """`total / count`, and 0 where the count is 0.

    Args:
        total: a sum over this rank's items, 0 where it has none.
        count: how many they are, a scalar.
        over_ranks: divide by the ranks' mean count, so that the mean over ranks of the results (and of their
            gradients) is the mean over all items. All ranks must then call it.
    """
    count = count.float()
    if over_ranks:
        count = average(count)
    return total / count.clamp_min(1 / world_size())
