"""What VQCT takes from a words prior, and when it refuses one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vqpipe.codebooks.load import Prior
from vqpipe.codebooks.words import Words
from vqpipe.errors import MismatchError
from vqpipe.params.quantizers.vqct import GcnTransferParams, NoTransferParams, VqctParams
from vqpipe.quantizers.priors import describe, float_matrix, need_words


@dataclass(frozen=True)
class WordParts:
    """Tensors of its own on the CPU, that fit each other and the params."""

    adjectives: Float[Tensor, "Ka D"]
    nouns: Float[Tensor, "Kn D"]
    edges: Int64[Tensor, "2 E"]
    """Adjective and noun of each pair."""
    weights: Float[Tensor, " E"]


def take_words(config: VqctParams, prior: Prior) -> tuple[Words, WordParts]:
    """The prior, and its vectors and graph; vectors drawn from torch's generator with `words: random`.

    Raises:
        MismatchError: another prior, no words of one kind, vectors, words and edges that do not fit each
            other, a graph network without a graph, fewer adjectives than are averaged, or without a transfer
            network vectors of fewer dimensions than the codes.
    """
    words = need_words("vqct", prior)
    parts = WordParts(
        float_matrix(words.adjective_vectors, "adjective vectors"),
        float_matrix(words.noun_vectors, "noun vectors"),
        torch.as_tensor(words.edges).to("cpu", torch.int64, copy=True),
        torch.as_tensor(words.weights).to("cpu", torch.float32, copy=True),
    )
    _check_prior(words, parts)
    _check_params(config, words, parts)
    if config.words == "prior":
        return words, parts
    scale = torch.cat([parts.adjectives, parts.nouns]).square().mean().sqrt()
    adjectives = torch.randn_like(parts.adjectives) * scale
    nouns = torch.randn_like(parts.nouns) * scale
    return words, WordParts(adjectives, nouns, parts.edges, parts.weights)


def code_dim(config: VqctParams) -> int:
    """Dimension of a code: half of z's, or all of it with a single codebook."""
    return config.dim if config.codebooks == "single" else config.dim // 2


def _check_prior(words: Words, parts: WordParts) -> None:
    given = describe(words)
    adjectives, nouns, edges, weights = parts.adjectives, parts.nouns, parts.edges, parts.weights
    if min(len(adjectives), len(nouns)) == 0:
        raise MismatchError("quantizer vqct needs words of both kinds", found=given, run="dvc repro graph")
    counts = (len(words.adjectives), len(words.nouns))
    fits = (len(adjectives), len(nouns)) == counts and adjectives.shape[1] == nouns.shape[1]
    fits = fits and edges.ndim == 2 and edges.shape[0] == 2 and weights.shape == edges.shape[1:]
    fits = fits and bool(
        (edges >= 0).all() and (edges < torch.tensor(counts)[:, None]).all() and (weights >= 0).all()
    )
    if not fits:
        raise MismatchError(
            "the parts of the words prior do not fit each other",
            found=f"{given}, vectors {tuple(adjectives.shape)} and {tuple(nouns.shape)}, "
            f"edges {tuple(edges.shape)}, weights {tuple(weights.shape)}",
            expected="a vector per word, edges (2, E) within the vocabularies, a weight of 0 or more per edge",
            run="dvc repro graph",
        )


def _check_params(config: VqctParams, words: Words, parts: WordParts) -> None:
    num_adjectives, word_dim = parts.adjectives.shape
    if isinstance(config.transfer, GcnTransferParams) and parts.edges.numel() == 0:
        raise MismatchError(
            "a graph network needs a graph",
            found=f"transfer.kind: gcn, and {describe(words)} without edges",
            expected="a words prior with edges, or transfer.kind: mlp",
            run="dvc repro graph",
        )
    if config.topk_adjectives > num_adjectives:
        raise MismatchError(
            "quantizer vqct averages more adjectives than there are",
            found=f"topk_adjectives: {config.topk_adjectives}, and {describe(words)}",
            expected=f"topk_adjectives of at most {num_adjectives}, or a larger vocabulary",
            run="dvc repro vocabulary graph",
        )
    own = code_dim(config)
    largest = word_dim * (config.dim // own)
    if isinstance(config.transfer, NoTransferParams) and word_dim < own:
        raise MismatchError(
            "quantizer vqct without a transfer network takes the word vectors themselves as codes",
            found=f"dim: {config.dim} (codes of dimension {own}), and word vectors of dimension {word_dim}",
            expected=f"dim of at most {largest}, or transfer.kind: mlp",
            run=f"set quantizer.dim to {largest}",
        )
