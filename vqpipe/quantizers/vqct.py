"""Adjective and noun codebooks, made from word vectors by graph convolutions over which adjective modifies
which noun.

Paper: VQCT (Codebook Transfer with Part-of-Speech), CVPR 2024, arXiv 2403.10071, section 3.3; its ablations are
tables 2 and 3.

Frozen word vectors and the modifying graph are buffers; the transfer network turns them into codes on every
training pass, so that all codes move together though few are used. The first half of z takes its nearest
adjective, the second half its nearest noun; the two groups' losses are summed. An adjective and a noun of the
same spelling are two nodes.

Two forms: three layers, each followed by a ReLU, binary edges (the paper); two layers, no final ReLU, dropout
.5, edges weighted by count, and with `topk_adjectives: 2` the mean of the two nearest adjectives (the reference
code). A final ReLU makes all codes non-negative.

The ablations: `codebooks: single` takes all words as one codebook for the whole of z; `transfer: {kind: mlp}` leaves
the graph out, and `{kind: none}` the network, so that the word vectors themselves are the codes; `trainable_words`
trains them too; `words: random` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor

from vqpipe.codebooks.load import Prior
from vqpipe.codebooks.search import nearest_topk
from vqpipe.params.quantizers.vqct import GcnTransferParams, NoTransferParams, VqctParams
from vqpipe.quantizers.contract import Names, Quantized, check_indices
from vqpipe.quantizers.estimators import ESTIMATORS
from vqpipe.quantizers.memo import Memo
from vqpipe.quantizers.moments import compose, moment_map
from vqpipe.quantizers.nearest import NearestCodeQuantizer, code_losses
from vqpipe.quantizers.priors import keep
from vqpipe.quantizers.transfer import FrozenProjection, GraphNetwork, normalised_adjacency
from vqpipe.quantizers.vqct_words import code_dim, take_words

T = TypeVar("T")


class CodebookTransferQuantizer(NearestCodeQuantizer):
    """Two groups, adjective and noun; k + 1 with `topk_adjectives` k, the adjectives by rank; one with a single
    codebook. The transfer network is trained, the words where the params say so.

    Args:
        config: the params.
        adjective_vectors: (Ka, D).
        noun_vectors: (Kn, D).
        edges: (2, E), adjective and noun of each pair.
        edge_weights: (E,), how often each pair is said.
        names: per group, its words; a single codebook's are the adjectives and then the nouns.
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
        ka, kn = len(adjective_vectors), len(noun_vectors)
        num_codes = _by_group(config, ka, kn, ka + kn)
        super().__init__(config, _group_names(config), num_codes, names, data_init=config.init == "data")
        self.config, self.num_words = config, (ka, kn)
        keep(self, "adjective_vectors", adjective_vectors, config.trainable_words)
        keep(self, "noun_vectors", noun_vectors, config.trainable_words)
        self.register_buffer("edges", edges)
        self.register_buffer("edge_weights", edge_weights)
        self.transfer = _transfer(config, adjective_vectors.shape[1])
        self._adjacency: Memo[Tensor] = Memo()

    @classmethod
    def from_prior(cls, config: VqctParams, prior: Prior) -> Self:
        """See `QuantizerModule.from_prior`; the codebooks are as large as the prior's vocabularies.

        Raises:
            MismatchError: as `vqpipe.quantizers.vqct_words.take_words`.
        """
        words, parts = take_words(config, prior)
        adjectives, nouns = list(words.adjectives), list(words.nouns)
        names = _by_group(config, adjectives, nouns, adjectives + nouns)
        quantizer = cls(config, parts.adjectives, parts.nouns, parts.edges, parts.weights, names)
        if isinstance(quantizer.transfer, FrozenProjection):
            quantizer.transfer.fit(torch.cat([parts.adjectives, parts.nouns]))
        return quantizer

    @classmethod
    def skeleton(cls, config: VqctParams, tensors: Mapping[str, Tensor], names: Names | None) -> Self:
        """See `QuantizerModule.skeleton`; vocabularies and graph have the tensors' shapes."""
        parts = ("adjective_vectors", "noun_vectors", "edges", "edge_weights")
        adjectives, nouns, edges, weights = (torch.zeros_like(tensors[part], device="cpu") for part in parts)
        return cls(config, adjectives, nouns, edges, weights, names)

    def live_codes(self) -> tuple[Float[Tensor, "K dg"], ...]:
        """The codebook of each group, from one pass over all words (eq. 3)."""
        codes = self._transferred()
        return _by_group(self.config, codes[: self.num_words[0]], codes[self.num_words[0] :], codes)

    def set_from_data(self, rows: Float[Tensor, "p n dg"]) -> None:
        """Set the last layer so that the codes of all words together are placed as the first batch's
        latents are.

        Mean and covariance; only the root mean square where a final ReLU keeps codes non-negative.
        """
        assert isinstance(self.transfer, GraphNetwork)
        latents, codes = rows.flatten(0, 1), self._transferred()
        if self.transfer.final_relu:
            scale = latents.square().mean().sqrt() / codes.square().mean().sqrt().clamp_min(1e-12)
            identity = torch.eye(codes.shape[1], device=codes.device)
            compose(self.transfer.last, identity * scale, codes.new_zeros(codes.shape[1]))
        else:
            compose(self.transfer.last, *moment_map(codes, latents))

    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b d h w"]:
        """See `Quantizer.decode`; the first half is the mean of k adjectives with `topk_adjectives` k."""
        several = self.config.topk_adjectives
        if several == 1:
            return super().decode(indices)
        check_indices(indices, self.num_codes)
        with torch.autocast(indices.device.type, enabled=False):
            codes = self._codes()
        adjective = _mean_code(indices[:, :several].movedim(1, -1), codes[0])
        noun = F.embedding(indices[:, several].long(), codes[-1])
        return torch.cat([adjective, noun], dim=-1).movedim(-1, 1)

    def _quantise(self, z: Tensor, progress: float) -> Quantized:
        several = self.config.topk_adjectives
        if several == 1:
            return super()._quantise(z, progress)
        codes = self._codes()
        outputs, indices, losses = [], [], []
        terms: dict[str, Tensor] = {}
        sides = zip(("adjective", "noun"), self._split(z), (codes[0], codes[-1]), (several, 1), strict=True)
        for name, part, vectors, count in sides:
            rows = part.movedim(1, -1)
            index = nearest_topk(rows.flatten(0, 2), vectors, count).view(*rows.shape[:3], count)
            chosen = _mean_code(index, vectors)
            loss, commitment, codebook = code_losses(rows, chosen, self.beta, self.beta_on)
            terms |= {f"commitment_{name}": commitment.detach(), f"codebook_{name}": codebook.detach()}
            losses.append(loss)
            outputs.append(ESTIMATORS[self.estimator](rows, chosen).movedim(-1, 1))
            indices.append(index.movedim(-1, 1))
        loss = torch.stack(losses).sum()
        return Quantized(torch.cat(outputs, dim=1), torch.cat(indices, dim=1), loss, terms, codes)

    def _split(self, z: Tensor) -> tuple[Tensor, ...]:
        parts = super()._split(z)
        return parts if self.config.topk_adjectives == 1 else z.chunk(2, dim=1)

    def _transferred(self) -> Tensor:
        words = torch.cat([self.adjective_vectors, self.noun_vectors])
        if isinstance(self.config.transfer, GcnTransferParams):
            adjacency = self._adjacency.get([self.edges, self.edge_weights], self._graph)
            return torch.as_tensor(self.transfer(words, adjacency))
        return torch.as_tensor(self.transfer(words))

    @torch.no_grad()
    def _graph(self) -> Tensor:
        assert isinstance(self.config.transfer, GcnTransferParams)
        nodes = torch.stack([self.edges[0], self.edges[1] + self.num_words[0]])
        weights = self.edge_weights if self.config.transfer.edge_weights == "count" else None
        return normalised_adjacency(sum(self.num_words), nodes, weights)


def _by_group(config: VqctParams, adjective: T, noun: T, every: T) -> tuple[T, ...]:
    """What each index map takes of the adjectives', the nouns' and all words' share."""
    if config.codebooks == "single":
        return (every,)
    return (*[adjective] * config.topk_adjectives, noun)


def _group_names(config: VqctParams) -> tuple[str, ...]:
    if config.topk_adjectives == 1:
        return _by_group(config, "adjective", "noun", "word")
    return (*(f"adjective_{rank + 1}" for rank in range(config.topk_adjectives)), "noun")


def _transfer(config: VqctParams, word_dim: int) -> GraphNetwork | FrozenProjection:
    params = config.transfer
    if isinstance(params, NoTransferParams):
        return FrozenProjection(word_dim, code_dim(config))
    return GraphNetwork(
        word_dim, params.hidden_dim, code_dim(config), params.num_layers, params.final_relu, params.dropout
    )


def _mean_code(indices: Int[Tensor, "*s k"], codes: Float[Tensor, "K dg"]) -> Float[Tensor, "*s dg"]:
    """The mean of k codes, added up in the order of the indices, so that it is the same wherever it is made."""
    total, *rest = (F.embedding(index.long(), codes) for index in indices.unbind(-1))
    for one in rest:
        total = total + one
    return total / indices.shape[-1]
