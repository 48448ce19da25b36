"""Networks from word vectors to codes: graph convolutions on a sparse graph, layers without one, and a projection
that is not trained.

Paper: Kipf and Welling, arXiv 1609.02907, eq. 2: H' = act(D^-1/2 (A + I) D^-1/2 H W).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vqpipe.params.base import Params


class GcnTransferParams(Params):
    """Word vectors to codes by graph convolutions over the modifying graph."""

    kind: Literal["gcn"]
    num_layers: int = Field(ge=1, le=8)
    """Graph convolutions: 3 in the paper, 2 in its reference code."""
    hidden_dim: int = Field(ge=1)
    """Width of the layers before the last."""
    final_relu: bool
    """A ReLU after the last layer too: true in the paper (codes are then non-negative), false in its
    reference code."""
    dropout: float = Field(ge=0, lt=1)
    """Dropout after each ReLU but the last: 0 in the paper, 0.5 in its reference code."""
    edge_weights: Literal["binary", "count", "graph"]
    """`binary`: an edge is there or not (the paper's A). `count`: weighted by how often the captions have the
    pair (reference code). `graph`: by the weights of the words codebook, which `graph.weight` chooses."""


class MlpTransferParams(Params):
    """Word vectors to codes word by word, without the graph (the paper's ablation)."""

    kind: Literal["mlp"]
    num_layers: int = Field(ge=1, le=8)
    """Linear layers."""
    hidden_dim: int = Field(ge=1)
    """Width of the layers before the last."""
    final_relu: bool
    """A ReLU after the last layer too; codes are then non-negative."""
    dropout: float = Field(ge=0, lt=1)
    """Dropout after each ReLU but the last."""


class NoTransferParams(Params):
    """The word vectors are the codes (Table 3, rows i and ii; SPAE's codebook).

    Unchanged where they have the codes' dimension; where they have more, along their principal directions, which
    are found once and never trained. Where they have fewer, the quantizer is refused.
    """

    kind: Literal["none"]


TransferParams = Annotated[
    GcnTransferParams | MlpTransferParams | NoTransferParams, Field(discriminator="kind")
]


def normalised_adjacency(
    num_nodes: int, edges: Int64[Tensor, "2 E"], weights: Float[Tensor, " E"] | None = None
) -> Tensor:
    """D^-1/2 (A + I) D^-1/2 of an undirected graph, as a coalesced sparse COO matrix (num_nodes, num_nodes).

    Args:
        num_nodes: N.
        edges: pairs of nodes in [0, N), each pair in one direction; both are entered. Repeats count once
            without weights and add up with them.
        weights: of each edge; None gives the binary A.
    """
    both = torch.cat([edges, edges.flip(0)], dim=1)
    values = torch.ones(both.shape[1], device=edges.device) if weights is None else weights.float().repeat(2)
    adjacency = torch.sparse_coo_tensor(
        both, values, (num_nodes, num_nodes), check_invariants=True
    ).coalesce()
    entries = torch.ones_like(adjacency.values()) if weights is None else adjacency.values()
    loops = torch.arange(num_nodes, device=edges.device).expand(2, -1)
    index = torch.cat([adjacency.indices(), loops], dim=1)
    values = torch.cat([entries, entries.new_ones(num_nodes)])
    degree = torch.zeros(num_nodes, device=edges.device).index_add_(0, index[0], values)
    values = values * degree.rsqrt()[index[0]] * degree.rsqrt()[index[1]]
    return torch.sparse_coo_tensor(index, values, (num_nodes, num_nodes), check_invariants=True).coalesce()


class GraphNetwork(nn.Module):
    """Layers of Linear, neighbourhood mean (where there is a graph), bias, ReLU, dropout.

    Weights start Glorot-uniform and biases at zero, as in the paper above.

    Args:
        in_dim: of the node features.
        hidden_dim: of all layers' outputs but the last.
        out_dim: of the last layer's.
        num_layers: at least 1.
        final_relu: a ReLU after the last layer too.
        dropout: after each ReLU but the last layer's.
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int, final_relu: bool, dropout: float
    ) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        layers = [nn.Linear(a, b) for a, b in pairwise(dims)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)
        self.final_relu = final_relu
        self.dropout = nn.Dropout(dropout)

    @property
    def last(self) -> nn.Linear:
        """The last layer; its bias is added after the neighbourhood mean."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, nodes: Float[Tensor, "N i"], adjacency: Tensor | None = None) -> Float[Tensor, "N o"]:
        """Transform node features; without an adjacency each node is on its own (an MLP)."""
        hidden = nodes
        for depth, layer in enumerate(self.layers, start=1):
            assert isinstance(layer, nn.Linear)
            hidden = hidden @ layer.weight.T
            if adjacency is not None:
                hidden = torch.sparse.mm(adjacency, hidden)
            hidden = hidden + layer.bias
            if depth < len(self.layers):
                hidden = self.dropout(hidden.relu())
            elif self.final_relu:
                hidden = hidden.relu()
        return hidden


class FrozenProjection(nn.Module):
    """Vectors along their principal directions, found once by `set_directions` and kept as a buffer; not trained.

    With as many directions as dimensions it does nothing and keeps nothing. Vectors are not centred: their mean is
    projected with them.

    Args:
        in_dim: of the vectors.
        out_dim: how many directions, at most `in_dim`.
    """

    matrix: Tensor
    frozen_buffers = ("matrix",)

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        assert out_dim <= in_dim
        self.identity = in_dim == out_dim
        if not self.identity:
            self.register_buffer("matrix", torch.eye(in_dim, out_dim))

    @torch.no_grad()
    def set_directions(self, vectors: Float[Tensor, "N i"]) -> None:
        """Take the directions of the largest variance of `vectors`, in float64, the largest first; in each the
        component of the largest magnitude is positive."""
        if self.identity:
            return
        centred = vectors.double() - vectors.double().mean(0)
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, : self.matrix.shape[1]]
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        self.matrix.copy_(directions * largest.sign())

    def forward(self, vectors: Float[Tensor, "N i"]) -> Float[Tensor, "N o"]:
        """The vectors' coordinates along the directions."""
        return vectors if self.identity else vectors @ self.matrix
