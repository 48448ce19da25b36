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

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.codebooks.search import nearest_topk
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.errors import MismatchError
from vqpipe.quantizers.contract import (
    About,
    CodebookKind,
    Names,
    Quantized,
    check_indices,
    describe,
    float_matrix,
    need_words,
)
from vqpipe.quantizers.estimators import ESTIMATORS
from vqpipe.quantizers.moments import compose, moment_map
from vqpipe.quantizers.nearest import Memo, NearestCodeParams, NearestCodeQuantizer, code_losses
from vqpipe.quantizers.transfer import (
    FrozenProjection,
    GcnTransferParams,
    GraphNetwork,
    NoTransferParams,
    TransferParams,
    normalised_adjacency,
)

T = TypeVar("T")


class VqctParams(NearestCodeParams):
    """Codebooks made from the words of a words codebook (VQCT); their sizes are those of its vocabularies."""

    kind: Literal["vqct"]
    transfer: TransferParams
    """The network that makes the codebooks from the word vectors."""
    init: Literal["standard", "data"]
    """Transfer network at the start: `standard` (Glorot, the papers' form), or `data`: its last layer is then
    set so that the codes have the mean and covariance of the first batch's latents (only their scale where
    `final_relu` is true)."""
    codebooks: Literal["multi", "single"] = "multi"
    """`multi`: adjectives code the first half of z, nouns the second (the paper's MCB). `single`: one codebook of all
    words codes the whole of it (SCB)."""
    words: Literal["codebook", "random"] = "codebook"
    """Word vectors at the start: those of the codebook, or `random`: drawn from a normal distribution with mean 0 and
    the root mean square of all their entries (the paper's RI). Names and graph stay the codebook's."""
    trainable_words: bool = False
    """Train the word vectors too (the paper's fine-tuning) instead of keeping them as they start."""
    topk_adjectives: int = Field(default=1, ge=1)
    """k: z's first half becomes the mean of its k nearest adjectives, coded by k indices: 1 in the paper, 2 in its
    reference code's configs."""

    @model_validator(mode="after")
    def _fits(self) -> VqctParams:
        multi = self.codebooks == "multi"
        if multi and self.dim % 2:
            raise ValueError(f"dim must be even, half for adjectives and half for nouns; it is {self.dim}")
        if not multi and self.topk_adjectives > 1:
            raise ValueError(
                f"topk_adjectives {self.topk_adjectives} needs codebooks: multi; a single codebook has no adjectives "
                "of its own"
            )
        if self.transfer.kind == "none" and self.init == "data":
            raise ValueError(
                "init data sets the transfer network's last layer, and transfer.kind none has no layers; "
                "set init: standard"
            )
        return self

    @property
    def codebook(self) -> CodebookKind:
        """Words."""
        return "words"

    @property
    def trains_codes(self) -> bool:
        """False with neither a transfer network nor trained words."""
        return self.trainable_words or not isinstance(self.transfer, NoTransferParams)

    @property
    def to_train_codes(self) -> str:
        """See `QuantizerParams.to_train_codes`."""
        return "the quantizer's trainable_words to true, or give it a transfer network"

    @property
    def code_dim(self) -> int:
        """Dimension of a code: half of z's, or all of it with a single codebook."""
        return self.dim if self.codebooks == "single" else self.dim // 2


class CodebookTransferQuantizer(NearestCodeQuantizer):
    """Two groups, adjective and noun, or one with a single codebook. The transfer network is trained, the words where
    the params say so.

    Args:
        config: the params.
        adjective_vectors: (Ka, D).
        noun_vectors: (Kn, D).
        edges: (2, E), adjective and noun of each pair.
        edge_weights: (E,), how often the captions have each pair, or its weight in the codebook (see `take_words`).
        names: per group, its words; a single codebook's are the adjectives and then the nouns.
    """

    kind = "vqct"
    Params = VqctParams
    about = About(
        title="VQCT",
        codes="word vectors through a graph network: adjectives and nouns",
        moved_by="the network moves all codes at once",
        papers="VQCT 2403.10071",
        example={
            "kind": "vqct", "dim": 8, "beta": 0.25, "beta_on": "commitment", "init": "standard",
            "transfer": {
                "kind": "gcn", "num_layers": 3, "hidden_dim": 16, "final_relu": True, "dropout": 0.0,
                "edge_weights": "binary",
            },
        },
    )  # fmt: skip
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
        self.register_vectors("adjective_vectors", adjective_vectors, config.trainable_words)
        self.register_vectors("noun_vectors", noun_vectors, config.trainable_words)
        self.register_buffer("edges", edges)
        self.register_buffer("edge_weights", edge_weights)
        self.frozen_buffers = (*self.frozen_buffers, "edge_weights")
        self.transfer = _transfer(config, adjective_vectors.shape[1])
        self._adjacency: Memo[Tensor] = Memo()

    @property
    def parts(self) -> int:
        """2, for adjectives and nouns; 1 with a single codebook."""
        return 1 if self.config.codebooks == "single" else 2

    @classmethod
    def from_codebook(cls, config: VqctParams, codebook: PretrainedCodebook) -> CodebookTransferQuantizer:
        """See `Quantizer.from_codebook`; the codebooks are as large as the vocabularies.

        Raises:
            MismatchError: as `take_words`.
        """
        words = take_words(config, codebook)
        adjectives, nouns = list(words.adjectives), list(words.nouns)
        names = _by_group(config, adjectives, nouns, adjectives + nouns)
        quantizer = _form(config)(
            config, words.adjective_vectors, words.noun_vectors, words.edges, words.weights, names
        )
        if isinstance(quantizer.transfer, FrozenProjection):
            quantizer.transfer.set_directions(words.vectors)
        return quantizer

    @classmethod
    def skeleton(
        cls, config: VqctParams, tensors: Mapping[str, Tensor], names: Names | None
    ) -> CodebookTransferQuantizer:
        """See `Quantizer.skeleton`; vocabularies and graph have the tensors' shapes."""
        parts = ("adjective_vectors", "noun_vectors", "edges", "edge_weights")
        adjectives, nouns, edges, weights = (torch.zeros_like(tensors[part], device="cpu") for part in parts)
        return _form(config)(config, adjectives, nouns, edges, weights, names)

    def live_codes(self) -> tuple[Float[Tensor, "K dg"], ...]:
        """The codebook of each group, from one pass over all words (eq. 3)."""
        codes = self._transferred()
        return _by_group(self.config, codes[: self.num_words[0]], codes[self.num_words[0] :], codes)

    def set_from_data(self, rows: Float[Tensor, "p n dg"]) -> None:
        """Set the last layer so that the codes of all words together have the mean and covariance of the first
        batch's latents; only the root mean square where a final ReLU keeps codes non-negative.
        """
        assert isinstance(self.transfer, GraphNetwork)
        training = self.transfer.training
        self.transfer.eval()  # the moments are those of the codes, and not of a sample under dropout
        latents, codes = rows.flatten(0, 1), self._transferred()
        self.transfer.train(training)
        if self.transfer.final_relu:
            scale = latents.square().mean().sqrt() / codes.square().mean().sqrt().clamp_min(1e-12)
            identity = torch.eye(codes.shape[1], device=codes.device)
            compose(self.transfer.last, identity * scale, codes.new_zeros(codes.shape[1]))
        else:
            compose(self.transfer.last, *moment_map(codes, latents))

    def _transferred(self) -> Tensor:
        words = torch.cat([self.adjective_vectors, self.noun_vectors])
        if isinstance(self.config.transfer, GcnTransferParams):
            adjacency = self._adjacency.get([self.edges, self.edge_weights], self._graph)
            return self.transfer(words, adjacency)
        return self.transfer(words)

    @torch.no_grad()
    def _graph(self) -> Tensor:
        assert isinstance(self.config.transfer, GcnTransferParams)
        nodes = torch.stack([self.edges[0], self.edges[1] + self.num_words[0]])
        weights = None if self.config.transfer.edge_weights == "binary" else self.edge_weights
        return normalised_adjacency(sum(self.num_words), nodes, weights)


class MeanAdjectiveQuantizer(CodebookTransferQuantizer):
    """With `topk_adjectives` k above 1: k + 1 groups, the adjectives by rank and the noun. z's first half becomes the
    mean of its k nearest adjectives."""

    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b d h w"]:
        """See `Quantizer.decode`."""
        check_indices(indices, self.num_codes)
        codes, several = self._codes(), self.config.topk_adjectives
        adjective = _mean_code(indices[:, :several].movedim(1, -1), codes[0])
        noun = F.embedding(indices[:, several].long(), codes[-1])
        return torch.cat([adjective, noun], dim=-1).movedim(-1, 1)

    def _quantise(self, z: Tensor, progress: float) -> Quantized:
        codes = self._codes()
        outputs, indices, losses = [], [], []
        terms: dict[str, Tensor] = {}
        for name, rows, vectors, index in self._sides(z, codes):
            chosen = _mean_code(index, vectors)
            loss, commitment, codebook = code_losses(rows, chosen, self.beta, self.beta_on)
            terms |= {f"commitment_{name}": commitment.detach(), f"codebook_{name}": codebook.detach()}
            losses.append(loss)
            outputs.append(ESTIMATORS[self.estimator](rows, chosen).movedim(-1, 1))
            indices.append(index.movedim(-1, 1))
        loss = torch.stack(losses).sum()
        return Quantized(torch.cat(outputs, dim=1), torch.cat(indices, dim=1), loss, terms, codes)

    def _search(self, z: Tensor, codes: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([index.movedim(-1, 1) for _, _, _, index in self._sides(z, codes)], dim=1)

    def _sides(self, z: Tensor, codes: tuple[Tensor, ...]) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """Per half of z: its name, rows (b, h, w, dg), codes, and the nearest of them (b, h, w, count)."""
        counts = (self.config.topk_adjectives, 1)
        sides = zip(("adjective", "noun"), self._split(z), (codes[0], codes[-1]), counts, strict=True)
        for name, part, vectors, count in sides:
            rows = part.movedim(1, -1)
            index = nearest_topk(rows.flatten(0, 2), vectors, count).view(*rows.shape[:3], count)
            yield name, rows, vectors, index


def _form(config: VqctParams) -> type[CodebookTransferQuantizer]:
    return MeanAdjectiveQuantizer if config.topk_adjectives > 1 else CodebookTransferQuantizer


def take_words(config: VqctParams, codebook: PretrainedCodebook) -> WordsCodebook:
    """The codebook with tensors of its own on the CPU; vectors drawn from torch's generator with `words: random`.
    Its weights are the edges' counts, and its own with `edge_weights: graph` or where it was made without counts.

    Raises:
        MismatchError: no words codebook, no words of one kind, vectors, words and edges that do not fit each other, a
            graph network without a graph, fewer adjectives than are averaged, or without a transfer network vectors of
            fewer dimensions than the codes.
    """
    given, transfer = need_words("vqct", codebook), config.transfer
    own = isinstance(transfer, GcnTransferParams) and transfer.edge_weights == "graph"
    weights = given.weights if own else given.edge_counts or given.weights
    words = replace(
        given,
        adjective_vectors=float_matrix(given.adjective_vectors, "adjective vectors"),
        noun_vectors=float_matrix(given.noun_vectors, "noun vectors"),
        edges=torch.as_tensor(given.edges).to("cpu", torch.int64, copy=True),
        weights=torch.as_tensor(weights).to("cpu", torch.float32, copy=True),
    )
    _check_parts(words)
    _check_params(config, words)
    if config.words == "codebook":
        return words
    scale = words.vectors.square().mean().sqrt()
    adjectives = torch.randn_like(words.adjective_vectors) * scale
    nouns = torch.randn_like(words.noun_vectors) * scale
    return replace(words, adjective_vectors=adjectives, noun_vectors=nouns)


def _check_parts(words: WordsCodebook) -> None:
    given = describe(words)
    adjectives, nouns = words.adjective_vectors, words.noun_vectors
    edges, weights = words.edges, words.weights
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
            "the parts of the words codebook do not fit each other",
            found=f"{given}, vectors {tuple(adjectives.shape)} and {tuple(nouns.shape)}, "
            f"edges {tuple(edges.shape)}, weights {tuple(weights.shape)}",
            expected="a vector per word, edges (2, E) within the vocabularies, a weight of 0 or more per edge",
            run="dvc repro graph",
        )


def _check_params(config: VqctParams, words: WordsCodebook) -> None:
    num_adjectives, word_dim = words.adjective_vectors.shape
    if isinstance(config.transfer, GcnTransferParams) and words.edges.numel() == 0:
        raise MismatchError(
            "a graph network needs a graph",
            found=f"transfer.kind: gcn, and {describe(words)} without edges",
            expected="a words codebook with edges, or transfer.kind: mlp",
            run="dvc repro graph",
        )
    if config.topk_adjectives > num_adjectives:
        raise MismatchError(
            "quantizer vqct averages more adjectives than there are",
            found=f"topk_adjectives: {config.topk_adjectives}, and {describe(words)}",
            expected=f"topk_adjectives of at most {num_adjectives}, or a larger vocabulary",
            run="dvc repro vocabulary graph",
        )
    own = config.code_dim
    largest = word_dim * (config.dim // own)
    if isinstance(config.transfer, NoTransferParams) and word_dim < own:
        raise MismatchError(
            "quantizer vqct without a transfer network takes the word vectors themselves as codes",
            found=f"dim: {config.dim} (codes of dimension {own}), and word vectors of dimension {word_dim}",
            expected=f"dim of at most {largest}, or transfer.kind: mlp",
            run=f"set quantizer.dim to {largest}",
        )


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
        return FrozenProjection(word_dim, config.code_dim)
    return GraphNetwork(
        word_dim, params.hidden_dim, config.code_dim, params.num_layers, params.final_relu, params.dropout
    )


def _mean_code(indices: Int[Tensor, "*s k"], codes: Float[Tensor, "K dg"]) -> Float[Tensor, "*s dg"]:
    """The mean of k codes, added up in the order of the indices, so that it is the same wherever it is made."""
    total, *rest = (F.embedding(index.long(), codes) for index in indices.unbind(-1))
    for one in rest:
        total = total + one
    return total / indices.shape[-1]
