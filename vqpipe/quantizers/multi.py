"""Several codebooks at one position: z is split into groups of channels, each quantised by itself.

Papers: UniTok, arXiv 2502.20321, multi-codebook quantisation; WeTok, arXiv 2508.05599, group-wise lookup-free
quantisation. The idea is that of product quantisation (Jegou et al., TPAMI 2011).

    z = [z_1 .. z_G],  q_g = base_g(z_g),  z_q = [q_1 .. q_G]

over any other method, with a codebook per group. G groups of K codes have K^G combinations, and cost the search, the
memory and the entropies of G K codes. The loss is the mean (UniTok's code, vector-quantize-pytorch) or the sum of the
groups' own.

- UniTok: `fc` with `normalise: true`, 8 groups of 4,096 codes of 8 dimensions each, loss by `mean`. Its attention
  layers in place of the two linear projections around the quantizer are left out; its code also has an entropy penalty,
  as an option.
- WeTok: `lfq` of a group's bits, 8 bits in each of 4 groups at f16 (its ImageNet config). Entropies are a group's own,
  which is exact for the entropy of a latent, and for that of the batch where groups are independent. Its code takes one
  batch distribution for all groups together; here, as in vector-quantize-pytorch's `num_codebooks`, each has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int, Int64
from pydantic import Field
from torch import Tensor

from vqpipe.quantizers.contract import (
    About,
    Codebook,
    Quantized,
    Quantizer,
    QuantizerParams,
    check_indices,
    check_latent,
)
from vqpipe.quantizers.nearest import LEARNED_EXAMPLE
from vqpipe.quantizers.over import OverParams, OverQuantizer, base_params

if TYPE_CHECKING:
    AnyBase = QuantizerParams
else:
    AnyBase = base_params()


class MultiParams(OverParams):
    """Channels are split into groups, each quantised with a codebook of its own (UniTok; over `lfq`: WeTok).

    `base` is any method but this one and `residual`; `residual` can be over this one.
    """

    kind: Literal["multi"]
    base: AnyBase
    """The quantizer of every group; its `dim` is that of a group."""
    num_groups: int = Field(ge=1, le=64)
    """G, groups of channels: an image has num_groups times the base's indices."""

    @property
    def copies(self) -> int:
        """num_groups."""
        return self.num_groups

    @property
    def dim(self) -> int:
        """Dimension of the z that the quantizer receives: num_groups times the base's."""
        return self.base.dim * self.num_groups


class MultiQuantizer(OverQuantizer):
    """num_groups times the base's groups, those of the first channels first.

    Args:
        config: the params.
        make: a base quantizer for the given group of channels.
    """

    kind = "multi"
    Params = MultiParams
    copies_name = "bases"
    about = About(
        title="Multi-codebook",
        codes="a codebook of any other method for each group of channels",
        moved_by="as the base",
        papers="UniTok 2502.20321; over `lfq`: WeTok 2508.05599",
        example={
            "kind": "multi", "base": {"kind": "fc", **LEARNED_EXAMPLE, "dim": 4, "normalise": True},
            "num_groups": 2, "reduce": "mean",
        },
    )  # fmt: skip

    def __init__(self, config: MultiParams, make: Callable[[int], Quantizer]) -> None:
        super().__init__(config, make)
        base = self._copies()[0]
        self.dim = config.dim
        self.num_codes = base.num_codes * config.num_groups
        self.own_gradient, self.estimator = base.own_gradient, base.estimator

    @property
    def parts(self) -> int:
        """num_groups times the base's."""
        return self.config.num_groups * self._copies()[0].parts

    def initialise(self, z: Float[Tensor, "b d h w"]) -> None:
        """See `Quantizer.initialise`: each group from its own channels."""
        for base, part in self._split(z):
            base.initialise(part)

    def waits_for_data(self) -> bool:
        """See `Quantizer.waits_for_data`: whether a group does."""
        return any(base.waits_for_data() for base in self._copies())

    def forward(self, z: Float[Tensor, "b d h w"], progress: float = 1.0) -> Quantized:
        """See `Quantizer.forward`; the groups' terms have the group's number after their names."""
        check_latent(z, self.dim, not self.training)
        outs: list[Quantized] = [base(part, progress) for base, part in self._split(z)]
        z_q = torch.cat([out.z_q for out in outs], dim=1)
        return self._joined(z_q, outs, tuple(vectors for out in outs for vectors in out.vectors))

    @torch.no_grad()
    def indices(self, z: Float[Tensor, "b d h w"]) -> Int64[Tensor, "b g h w"]:
        """See `Quantizer.indices`."""
        check_latent(z, self.dim, True)
        return torch.cat([base.indices(part) for base, part in self._split(z)], dim=1)

    def continuous(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"] | None:
        """See `Quantizer.continuous`: that of each group, where the base has one."""
        parts = [own for base, part in self._split(z) if (own := base.continuous(part)) is not None]
        return torch.cat(parts, dim=1) if parts else None

    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b d h w"]:
        """See `Quantizer.decode`."""
        check_indices(indices, self.num_codes)
        parts = zip(self._copies(), indices.chunk(self.config.num_groups, dim=1), strict=True)
        return torch.cat([base.decode(own) for base, own in parts], dim=1)

    @torch.no_grad()
    def codebooks(self) -> list[Codebook]:
        """The base's codebooks of each group of channels, named with the group's number."""
        return [
            Codebook(f"{book.group}_{g}", book.vectors, book.names, book.metric)
            for g, base in enumerate(self._copies())
            for book in base.codebooks()
        ]

    def _split(self, z: Tensor) -> list[tuple[Quantizer, Tensor]]:
        return list(zip(self._copies(), z.chunk(self.config.num_groups, dim=1), strict=True))
