"""Adjective and noun codebooks, made from word vectors by graph convolutions over which adjective modifies
which noun.

Paper: VQCT (Codebook Transfer with Part-of-Speech), CVPR 2024, arXiv 2403.10071, section 3.3.

Frozen word vectors and the modifying graph are buffers; the transfer network turns them into codes on every
training pass, so that all codes move together though few are used. The first half of z takes its nearest
adjective, the second half its nearest noun; the two groups' losses are summed. An adjective and a noun of the
same spelling are two nodes.

Two forms: three layers, each followed by a ReLU, binary edges (the paper); two layers, no final ReLU, dropout
.5, edges weighted by count (the reference code). A final ReLU makes all codes non-negative. `transfer: {kind:
mlp}` is the paper's ablation without the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vqpipe.codebooks.load import Prior
from vqpipe.codebooks.words import Words
from vqpipe.errors import MismatchError
from vqpipe.params.quantizers.vqct import GcnTransferParams, VqctParams
from vqpipe.quantizers.contract import Names
from vqpipe.quantizers.memo import Memo
from vqpipe.quantizers.moments import compose, moment_map
from vqpipe.quantizers.nearest import NearestCodeQuantizer
from vqpipe.quantizers.priors import describe, float_matrix, need_words
from vqpipe.quantizers.transfer import GraphNetwork, normalised_adjacency


class CodebookTransferQuantizer(NearestCodeQuantizer):
    """Two groups; only the transfer network is trained.

    Args:
        config: the params.
        adjective_vectors: (Ka, D).
        noun_vectors: (Kn, D).
        edges: (2, E), adjective and noun of each pair.
        edge_weights: (E,), how often each pair is said.
        names: the adjectives and the nouns.
    """

    kind = "vqct"
    adjective_vectors: Tensor
    noun_vectors: Tensor
    edges: Tensor
    edge_weights: Tensor

    def __init__(
        self,
        config: VqctParams,
        adjective_vectors: Float[Tensor, "Ka D"],
        noun_vectors: Float[Tensor, "Kn D"],
        edges: Int64[Tensor, "2 E"],
        edge_weights: Float[Tensor, " E"],
        names: Names | None = None,
    ) -> None:
        num_codes = (len(adjective_vectors), len(noun_vectors))
        super().__init__(config, ["adjective", "noun"], num_codes, names, data_init=config.init == "data")
        self.register_buffer("adjective_vectors", adjective_vectors)
        self.register_buffer("noun_vectors", noun_vectors)
        self.register_buffer("edges", edges)
        self.register_buffer("edge_weights", edge_weights)
        self.config = config.transfer
        self.transfer = GraphNetwork(
            adjective_vectors.shape[1],
            config.transfer.hidden_dim,
            config.dim // 2,
            config.transfer.num_layers,
            config.transfer.final_relu,
            config.transfer.dropout,
        )
        self._adjacency: Memo[Tensor] = Memo()

    @classmethod
    def from_prior(cls, config: VqctParams, prior: Prior) -> Self:
        """See `QuantizerModule.from_prior`; the codebooks are as large as the prior's vocabularies.

        Raises:
            MismatchError: another prior, no words of one kind, vectors, words and edges that do not fit each
                other, or a graph network without a graph.
        """
        words = need_words(cls.kind, prior)
        adjectives = float_matrix(words.adjective_vectors, "adjective vectors")
        nouns = float_matrix(words.noun_vectors, "noun vectors")
        edges = torch.as_tensor(words.edges).to("cpu", torch.int64, copy=True)
        weights = torch.as_tensor(words.weights).to("cpu", torch.float32, copy=True)
        _check(config, words, adjectives, nouns, edges, weights)
        return cls(config, adjectives, nouns, edges, weights, [list(words.adjectives), list(words.nouns)])

    @classmethod
    def skeleton(cls, config: VqctParams, tensors: Mapping[str, Tensor], names: Names | None) -> Self:
        """See `QuantizerModule.skeleton`; vocabularies and graph have the tensors' shapes."""
        parts = ("adjective_vectors", "noun_vectors", "edges", "edge_weights")
        adjectives, nouns, edges, weights = (torch.zeros_like(tensors[part], device="cpu") for part in parts)
        return cls(config, adjectives, nouns, edges, weights, names)

    def live_codes(self) -> tuple[Float[Tensor, "Ka dg"], Float[Tensor, "Kn dg"]]:
        """Both codebooks, of dimension d / 2, from one pass over all words (eq. 3)."""
        codes = self._transferred()
        return codes[: self.num_codes[0]], codes[self.num_codes[0] :]

    def set_from_data(self, rows: Float[Tensor, "2 n dg"]) -> None:
        """Set the last layer so that the codes of both groups together are placed as the first batch's
        latents are.

        Mean and covariance; only the root mean square where a final ReLU keeps codes non-negative.
        """
        latents, codes = rows.flatten(0, 1), self._transferred()
        if self.config.final_relu:
            scale = latents.square().mean().sqrt() / codes.square().mean().sqrt().clamp_min(1e-12)
            identity = torch.eye(codes.shape[1], device=codes.device)
            compose(self.transfer.last, identity * scale, codes.new_zeros(codes.shape[1]))
        else:
            compose(self.transfer.last, *moment_map(codes, latents))

    def _transferred(self) -> Tensor:
        words = torch.cat([self.adjective_vectors, self.noun_vectors])
        if not isinstance(self.config, GcnTransferParams):
            return self.transfer(words)
        return self.transfer(words, self._adjacency.get([self.edges, self.edge_weights], self._graph))

    @torch.no_grad()
    def _graph(self) -> Tensor:
        assert isinstance(self.config, GcnTransferParams)
        nodes = torch.stack([self.edges[0], self.edges[1] + self.num_codes[0]])
        weights = self.edge_weights if self.config.edge_weights == "count" else None
        return normalised_adjacency(sum(self.num_codes), nodes, weights)


def _check(
    config: VqctParams, words: Words, adjectives: Tensor, nouns: Tensor, edges: Tensor, weights: Tensor
) -> None:
    given = describe(words)
    if min(len(adjectives), len(nouns)) == 0:
        raise MismatchError("quantizer vqct needs words of both kinds", found=given, run="dvc repro graph")
    if isinstance(config.transfer, GcnTransferParams) and edges.numel() == 0:
        raise MismatchError(
            "a graph network needs a graph",
            found=f"transfer.kind: gcn, and {given} without edges",
            expected="a words prior with edges, or transfer.kind: mlp",
            run="dvc repro graph",
        )
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
