"""The one contract of all quantizers: what they take, what they return, what they can be asked.

`Quantizer` is what the rest of the library relies on; `QuantizerModule` is what each file of this room
implements and what `QUANTIZERS` holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from vqpipe.codebooks.load import Prior
from vqpipe.codebooks.search import Metric
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.params.quantizers.nearest import Estimator

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)
"""Dtypes that indices may have."""
Names = Sequence[Sequence[str] | None]
"""Per group, the name (word) of each code, or None."""


@dataclass(frozen=True)
class Codebook:
    """One group's code vectors, without gradient, and the codes' names where they have any."""

    group: str
    """What the group codes for: `code`, or `adjective` and `noun`."""
    vectors: Float[Tensor, "K d"]
    names: list[str] | None = None
    metric: Metric = "euclidean"
    """What near means among them: what the method searches by, and `euclidean` where it does not search."""


@dataclass(frozen=True)
class Quantized:
    """What one forward pass of a quantizer gives."""

    z_q: Float[Tensor, "b d h w"]
    """The quantised latent, float32; in the backward pass its gradient goes to z."""
    indices: Int64[Tensor, "b g h w"]
    """The code of each position in each group, in [0, num_codes[g])."""
    loss: Float[Tensor, ""]
    """The method's own loss, weighted as its params say."""
    terms: dict[str, Tensor]
    """The loss's terms by name, unweighted scalars without gradient, for the curves."""
    vectors: tuple[Float[Tensor, "K dg"], ...]
    """Per group, the live code vectors of this pass, with gradient where the method trains them. Losses on
    codes gather `vectors[g][indices[:, g]]`. Empty for methods that have no code vectors."""


class Quantizer(Protocol):
    """Maps a latent to the nearest of a finite set of codes, and indices back to codes."""

    @property
    def groups(self) -> int:
        """g: 1, or 2 for VQCT's adjective and noun."""

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K per group."""

    def forward(self, z: Float[Tensor, "b d h w"], progress: float = 1.0) -> Quantized:
        """Quantise a latent; `progress` in [0, 1] drives temperatures and annealing."""

    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b d h w"]:
        """The latent of given indices: equal to the `z_q` that came with them in eval mode."""

    def codebooks(self) -> list[Codebook]:
        """The codes of each group, in the order of the indices' groups."""


class QuantizerModule(nn.Module, ABC):
    """A quantizer that can be built from a prior, and rebuilt from a checkpoint without it.

    It computes in float32 and keeps its codes so: `half`, `bfloat16`, `double` and `to(dtype)` leave its dtypes alone,
    and latents of any floating dtype are taken. In eval mode a latent that is not finite is an error; in training it
    makes `z_q` or the loss NaN or infinite, which the engine looks for.

    Everything that a checkpoint needs is a parameter or a buffer, except the codes' names: a checkpoint keeps
    those beside the tensors and hands them to `from_state`.
    """

    kind: ClassVar[str]
    """The name in `QUANTIZERS` and in the params."""
    dim: int
    """d of the z that `forward` takes."""
    num_codes: tuple[int, ...]
    own_gradient: bool = False
    """Whether `z_q` carries the method's own gradient, to z and to what it trains (a softmax over codes, a bounded
    rounding). Otherwise an estimator hands the gradient of `z_q` to z alone, and the loss trains the codes."""

    estimator: Estimator = "straight_through"
    """How the gradient of `z_q` reaches z where it is not the method's own: a name in `ESTIMATORS`."""

    @property
    def groups(self) -> int:
        """g, the number of indices per position."""
        return len(self.num_codes)

    @property
    def parts(self) -> int:
        """Equal parts that z is split into: `groups`, fewer where several codes make one part together."""
        return self.groups

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        def placed(tensor: Tensor) -> Tensor:
            made: Tensor = fn(tensor)
            return made if made.dtype == tensor.dtype else tensor.to(made.device)

        super()._apply(placed, recurse)  # type: ignore[no-untyped-call]
        return self

    @abstractmethod
    def forward(self, z: Float[Tensor, "b d h w"], progress: float = 1.0) -> Quantized:
        """See `Quantizer.forward`."""

    @abstractmethod
    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b d h w"]:
        """See `Quantizer.decode`."""

    @abstractmethod
    def codebooks(self) -> list[Codebook]:
        """See `Quantizer.codebooks`."""

    def initialise(self, z: Float[Tensor, "b d h w"]) -> None:
        """Set what starts from data from one batch of latents; a second call does nothing.

        The first forward pass in training does this by itself. A trainer that copies the weights before that
        (averaged weights, say) calls it first. Methods that start from nothing but their params do nothing here.
        """

    def waits_for_data(self) -> bool:
        """Whether `initialise` still has something to set."""
        done = dict(self.named_buffers(recurse=False)).get("initialised")
        return done is not None and not bool(done)

    @classmethod
    @abstractmethod
    def from_prior(cls, config: Any, prior: Prior) -> Self:
        """A quantizer ready to train.

        Raises:
            MismatchError: the prior is not of the kind that the method needs, or too small for the params.
        """

    @classmethod
    @abstractmethod
    def skeleton(cls, config: Any, tensors: Mapping[str, Tensor], names: Names | None) -> Self:
        """A quantizer with the shapes of `tensors`; `from_state` then loads them. A missing name is a
        KeyError."""

    @classmethod
    def from_state(cls, config: Any, tensors: Mapping[str, Tensor], names: Names | None = None) -> Self:
        """The quantizer whose `state_dict()` is `tensors`, in eval mode.

        Args:
            config: the params that it was built with.
            tensors: its state, by name.
            names: per group, the names of its codes, as `codebooks()` gave them.

        Raises:
            ArtifactError: the tensors are not those of this quantizer.
            MismatchError: the names are not as many as the codes.
        """
        try:
            quantizer = cls.skeleton(config, tensors, names)
            quantizer.load_state_dict(dict(tensors))
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(
                f"these tensors are not the state of a {cls.kind} quantizer with these params: {error}",
                found=", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
                or "no tensors",
            ) from error
        return quantizer.eval()


def check_latent(z: Any, dim: int, values: bool) -> None:
    """Raise `MismatchError` unless `z` is a floating-point tensor (b, dim, h, w); with `values`, unless it is finite.

    Looking at values waits for the device, so a training step leaves it to the engine's check of loss and gradients.
    """
    expected = f"a floating-point tensor (b, {dim}, h, w)"
    if not isinstance(z, Tensor):
        raise MismatchError("this is not a latent", found=type(z).__name__, expected=expected)
    if z.ndim != 4 or z.shape[1] != dim or not z.is_floating_point():
        found = f"{z.dtype} of shape {tuple(z.shape)}"
        raise MismatchError("the latent is not one of this quantizer", found=found, expected=expected)
    if values and not torch.compiler.is_exporting() and not bool(z.detach().isfinite().all()):
        bad = int((~z.detach().isfinite()).sum())
        raise MismatchError(
            "the latent has values that are not finite, and no code is near them",
            found=f"{bad:,} of {z.numel():,} values, {z.dtype}",
            expected="finite values; an encoder in float16 may overflow where bfloat16 and float32 do not",
        )


def check_indices(indices: Any, num_codes: tuple[int, ...]) -> None:
    """Raise `MismatchError` unless `indices` is (b, g, h, w), whole numbers, each in its group's range."""
    groups = len(num_codes)
    expected = f"whole numbers of shape (b, {groups}, h, w), each below {num_codes}"
    problem = "the indices are not of this tokenizer"
    if not isinstance(indices, Tensor):
        found = type(indices).__name__
        raise MismatchError(problem, found=found, expected=expected, run="torch.as_tensor(indices)")
    found = f"{indices.dtype} of shape {tuple(indices.shape)}"
    if indices.dtype not in WHOLE:
        run = "indices.long(), where they hold whole numbers" if indices.is_floating_point() else None
        raise MismatchError(problem, found=found, expected=expected, run=run)
    if indices.ndim != 4 or indices.shape[1] != groups or min(indices.shape[2:]) == 0:
        run = "indices.unsqueeze(1) for (b, h, w)" if indices.ndim == 3 and groups == 1 else None
        raise MismatchError(problem, found=found, expected=expected, run=run)
    if torch.compiler.is_exporting():
        return  # a graph cannot look at values; its runtime refuses a gather out of range
    for group, count in enumerate(num_codes):
        part = indices[:, group].long()
        if part.numel() and (int(part.min()) < 0 or int(part.max()) >= count):
            found = f"{int(part.min())} to {int(part.max())} in group {group}"
            raise MismatchError(problem, found=found, expected=expected)
