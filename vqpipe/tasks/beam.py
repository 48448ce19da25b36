"""Beam search over the words of captions, for many images at once.

ClipCap's rules (arXiv 2111.09734; its reference code): beams are ranked by their mean log-probability per word, the
stop word included. A beam that has stopped keeps its place with its score; it adds no word. The search ends when all
beams have stopped, or after the greatest number of words. Ours is `must_stop`: ClipCap cuts a beam that has not stopped
by then, and ours ends it with the stop word, at that word's own probability.

Letters: b images, k beams, m = b k rows in the order of images, t words, v size of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class Decoding(Protocol):
    """A language model in the middle of some texts."""

    logits: Float[Tensor, "m v"]
    """Of each text's next word; -inf for what cannot follow. Before the first step, of each image's first word."""

    def step(self, sources: Int64[Tensor, " m"], tokens: Int64[Tensor, " m"]) -> None:
        """Go to the texts that follow: text i is text `sources[i]` of the last step with the word `tokens[i]`."""


@dataclass(frozen=True)
class Beams:
    """The texts that were found, the best of each image first."""

    tokens: Int64[Tensor, "b k t"]
    """Words; after a text's own come zeros."""
    lengths: Int64[Tensor, "b k"]
    """Words of each text, the stop word included."""
    scores: Float[Tensor, "b k"]
    """Mean log-probability per word."""

    def sequences(self, image: int) -> list[list[int]]:
        """The texts of one image, the stop word included."""
        rows = zip(self.tokens[image].tolist(), self.lengths[image].tolist(), strict=True)
        return [words[:length] for words, length in rows]


def beam_search(
    decoding: Decoding,
    *,
    beam: int,
    stop: int,
    length: int,
    temperature: float = 1.0,
    must_stop: bool = False,
) -> Beams:
    """The best texts of each image.

    Args:
        decoding: before its first step, a row for each image.
        beam: k, at most v; 1 takes the likeliest word each time.
        stop: the word that ends a text.
        length: most words of a text, the stop word included.
        temperature: divides the logits.
        must_stop: the last of `length` words, at least 2, can only be the stop word.
    """
    logs = (decoding.logits / temperature).log_softmax(dim=1)
    images, size = logs.shape
    sums, words = logs.topk(beam, dim=1)
    tokens, lengths, stopped = words[:, :, None], torch.ones_like(words), words == stop
    first = torch.arange(images, device=logs.device)[:, None]  # the row of each image's first beam
    sources = first.expand(-1, beam)
    for step in range(1, length):
        if bool(stopped.all()):
            break
        decoding.step(sources.flatten(), words.flatten())
        logs = (decoding.logits / temperature).log_softmax(dim=1).view(images, beam, size)
        if must_stop and step == length - 1:
            others = torch.arange(size, device=logs.device) != stop
            logs = logs.masked_fill(others, -torch.inf)
        logs = logs.masked_fill(stopped[:, :, None], -torch.inf)
        logs[:, :, 0] = logs[:, :, 0].masked_fill(stopped, 0.0)
        lengths = lengths + (~stopped).long()
        means = (sums[:, :, None] + logs) / lengths[:, :, None]
        scores, chosen = means.flatten(1).topk(beam, dim=1)
        parents, words = chosen // size, chosen % size
        tokens = torch.cat(
            [tokens.gather(1, parents[:, :, None].expand_as(tokens)), words[:, :, None]], dim=2
        )
        lengths, stopped = lengths.gather(1, parents), stopped.gather(1, parents)
        sums = scores * lengths
        stopped = stopped | (words == stop)
        sources = first * beam + parents
    scores, order = (sums / lengths).sort(dim=1, descending=True, stable=True)
    return Beams(tokens.gather(1, order[:, :, None].expand_as(tokens)), lengths.gather(1, order), scores)
