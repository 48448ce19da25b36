"""Several codebooks at one position: z is split into groups of channels, each quantised by itself.

Papers: UniTok, arXiv 2502.20321, multi-codebook quantisation; WeTok, arXiv 2508.05599, group-wise lookup-free
quantisation. The idea is that of product quantisation (Jegou et al., TPAMI 2011).

    z = [z_1 .. z_G],  q_g = base_g(z_g),  z_q = [q_1 .. q_G]

over any other method, with a codebook per group. G groups of K codes have K^G combinations, and cost the search, the
memory and the entropies of G K codes. The loss is the mean (UniTok's code) or the sum of the groups' own.

- UniTok: `fc` with `normalise: true`, 8 groups of 4,096 codes of 8 dimensions each, loss by `mean`. Its attention
  layers in place of the two linear projections around the quantizer are left out; its code also has an entropy penalty,
  as an option.
- WeTok: `lfq` of a group's bits, 8 bits in each of 4 groups at f16 (its ImageNet config). Entropies are a group's own,
  which is exact for the entropy of a latent, and for that of the batch where groups are independent. Its code takes one
  batch distribution for all groups together; here, as in vector-quantize-pytorch's `num_codebooks`, each has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Union

import torch
from jaxtyping import Float, Int, Int64
from pydantic import Field
from torch import Tensor, nn

from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.quantizers import QUANTIZERS
from vqpipe.quantizers.contract import (
    About,
    Codebook,
    CodebookKind,
    Names,
    Quantized,
    Quantizer,
    QuantizerParams,
    check_indices,
    check_latent,
)
from vqpipe.quantizers.nearest import LEARNED_EXAMPLE

if TYPE_CHECKING:
    AnyBase = QuantizerParams
else:
    _BASES = [QUANTIZERS[kind].Params for kind in QUANTIZERS if kind not in ("multi", "residual")]
    AnyBase = Annotated[Union[tuple(_BASES)], Field(discriminator="kind")]  # noqa: UP007
    """The params of every method that can quantise a group: all but those over others."""


class MultiParams(QuantizerParams):
    """Channels are split into groups, each quantised with a codebook of its own (UniTok; over `lfq`: WeTok).

    `base` is any method but this one and `residual`; `residual` can be over this one.
    """

    kind: Literal["multi"]
    base: AnyBase
    """The quantizer of every group; its `dim` is that of a group."""
    num_groups: int = Field(ge=1, le=64)
    """G, groups of channels: an image has num_groups times the base's indices."""
    reduce: Literal["sum", "mean"]
    """The loss over the groups: `mean` (UniTok's code, vector-quantize-pytorch) or `sum`."""

    @property
    def dim(self) -> int:
        """Dimension of the z that the quantizer receives: num_groups times the base's."""
        return self.base.dim * self.num_groups

    @property
    def codebook(self) -> CodebookKind:
        """The base's."""
        return self.base.codebook

    @property
    def trains_codes(self) -> bool:
        """The base's."""
        return self.base.trains_codes

    @property
    def to_train_codes(self) -> str:
        """The base's."""
        return self.base.to_train_codes

    @property
    def label(self) -> str:
        """`multi over` the base."""
        return f"multi over {self.base.label}"


class MultiQuantizer(Quantizer):
    """num_groups times the base's groups, those of the first channels first.

    Args:
        config: the params.
        make: a base quantizer for the given group of channels.
    """

    kind = "multi"
    Params = MultiParams
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
        super().__init__()
        self.config = config
        self.bases = nn.ModuleList(make(g) for g in range(config.num_groups))
        base = self._all()[0]
        self.dim = config.dim
        self.num_codes = base.num_codes * config.num_groups
        self.own_gradient, self.estimator = base.own_gradient, base.estimator

    @property
    def parts(self) -> int:
        """num_groups times the base's."""
        return self.config.num_groups * self._all()[0].parts

    @classmethod
    def from_codebook(cls, config: MultiParams, codebook: PretrainedCodebook) -> MultiQuantizer:
        """See `Quantizer.from_codebook`; every group takes the base's codebook."""
        method = QUANTIZERS[config.base.kind]
        return cls(config, lambda group: method.from_codebook(config.base, codebook))

    @classmethod
    def skeleton(
        cls, config: MultiParams, tensors: Mapping[str, Tensor], names: Names | None
    ) -> MultiQuantizer:
        """See `Quantizer.skeleton`."""
        method = QUANTIZERS[config.base.kind]

        def make(group: int) -> Quantizer:
            prefix = f"bases.{group}."
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            count = len(names) // config.num_groups if names is not None else 0
            return method.skeleton(config.base, own, names and names[group * count : (group + 1) * count])

        return cls(config, make)

    def initialise(self, z: Float[Tensor, "b d h w"]) -> None:
        """See `Quantizer.initialise`: each group from its own channels."""
        for base, part in self._split(z):
            base.initialise(part)

    def waits_for_data(self) -> bool:
        """See `Quantizer.waits_for_data`: whether a group does."""
        return any(base.waits_for_data() for base in self._all())

    def forward(self, z: Float[Tensor, "b d h w"], progress: float = 1.0) -> Quantized:
        """See `Quantizer.forward`; the groups' terms have the group's number after their names."""
        check_latent(z, self.dim, not self.training)
        outs: list[Quantized] = [base(part, progress) for base, part in self._split(z)]
        losses = torch.stack([out.loss for out in outs])
        return Quantized(
            torch.cat([out.z_q for out in outs], dim=1),
            torch.cat([out.indices for out in outs], dim=1),
            losses.sum() if self.config.reduce == "sum" else losses.mean(),
            {f"{name}_{g}": value for g, out in enumerate(outs) for name, value in out.terms.items()},
            tuple(vectors for out in outs for vectors in out.vectors),
        )

    @torch.no_grad()
    def indices(self, z: Float[Tensor, "b d h w"]) -> Int64[Tensor, "b g h w"]:
        """See `Quantizer.indices`."""
        check_latent(z, self.dim, True)
        return torch.cat([base.indices(part) for base, part in self._split(z)], dim=1)

    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b d h w"]:
        """See `Quantizer.decode`."""
        check_indices(indices, self.num_codes)
        parts = zip(self._all(), indices.chunk(self.config.num_groups, dim=1), strict=True)
        return torch.cat([base.decode(own) for base, own in parts], dim=1)

    @torch.no_grad()
    def codebooks(self) -> list[Codebook]:
        """The base's codebooks of each group of channels, named with the group's number."""
        return [
            Codebook(f"{book.group}_{g}", book.vectors, book.names, book.metric)
            for g, base in enumerate(self._all())
            for book in base.codebooks()
        ]

    def _all(self) -> list[Quantizer]:
        return [base for base in self.bases if isinstance(base, Quantizer)]

    def _split(self, z: Tensor) -> list[tuple[Quantizer, Tensor]]:
        return list(zip(self._all(), z.chunk(self.config.num_groups, dim=1), strict=True))
