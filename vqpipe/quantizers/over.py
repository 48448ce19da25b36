"""What the methods over another one share: its params, its codebook, and its copies, one for each part of the latent.

`multi` has a copy for each group of channels, `residual` for each stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Union

import torch
from pydantic import Field
from torch import Tensor, nn

from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.quantizers import QUANTIZERS
from vqpipe.quantizers.contract import CodebookKind, Names, Quantized, Quantizer, QuantizerParams

OVER = ("multi", "residual")
"""The kinds of the methods over another one."""


def base_params(*further: str) -> Any:
    """The type of params of every method that is not over another one, and of `further` kinds."""
    found = [QUANTIZERS[kind].Params for kind in QUANTIZERS if kind not in OVER or kind in further]
    return Annotated[Union[tuple(found)], Field(discriminator="kind")]  # noqa: UP007


class OverParams(QuantizerParams):
    """Params of a method over another one; a subclass states `base`, the params of that."""

    if TYPE_CHECKING:
        base: QuantizerParams
    reduce: Literal["sum", "mean"]
    """The loss over the copies of the base: their sum or their mean."""

    @property
    def copies(self) -> int:
        """Quantizers of the base's kind that a latent goes through."""
        raise NotImplementedError

    @property
    def num_made(self) -> int:
        """Copies with weights of their own: all, or one that serves as each."""
        return self.copies

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
        """This method `over` the base."""
        return f"{self.kind} over {self.base.label}"


class OverQuantizer(Quantizer):
    """Copies of another quantizer.

    Args:
        config: the params.
        make: makes the copy with a number, from 0.
    """

    copies_name: ClassVar[str]
    """The attribute that holds the copies; the weights' names begin with it."""

    def __init__(self, config: Any, make: Callable[[int], Quantizer]) -> None:
        super().__init__()
        self.config = config
        setattr(self, self.copies_name, nn.ModuleList(map(make, range(config.num_made))))

    @classmethod
    def from_codebook(cls, config: Any, codebook: PretrainedCodebook) -> Self:
        """See `Quantizer.from_codebook`; every copy takes the base's codebook."""
        method = QUANTIZERS[config.base.kind]
        return cls(config, lambda number: method.from_codebook(config.base, codebook))

    @classmethod
    def skeleton(cls, config: Any, tensors: Mapping[str, Tensor], names: Names | None) -> Self:
        """See `Quantizer.skeleton`."""
        method = QUANTIZERS[config.base.kind]

        def make(number: int) -> Quantizer:
            prefix = f"{cls.copies_name}.{number}."
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            groups = len(names) // config.copies if names is not None else 0
            return method.skeleton(config.base, own, names and names[number * groups : (number + 1) * groups])

        return cls(config, make)

    def _copies(self) -> list[Quantizer]:
        return list(getattr(self, self.copies_name))

    def _joined(self, z_q: Tensor, outs: Sequence[Quantized], vectors: tuple[Tensor, ...]) -> Quantized:
        """What the copies found, as one; their terms have the copy's number after their names."""
        losses = torch.stack([out.loss for out in outs])
        return Quantized(
            z_q,
            torch.cat([out.indices for out in outs], dim=1),
            losses.sum() if self.config.reduce == "sum" else losses.mean(),
            {
                f"{name}_{number}": value
                for number, out in enumerate(outs)
                for name, value in out.terms.items()
            },
            vectors,
        )
