"""The contract of all quantizers: what their params say, what they take, what they return, how they are built.

To add one, write a file with a params model (a `QuantizerParams`) and a class (a `Quantizer`, mostly by way of
`vqpipe.quantizers.nearest.LearnedCodesQuantizer`), and add a line to the table in `vqpipe.quantizers`. The union of
the params, the refusals, the property tests and the table in `docs/quantizers.md` follow from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.codebooks.patches import PatchesCodebook
from vqpipe.codebooks.search import Metric
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.params.base import Params
from vqpipe.quantizers.estimators import Estimator
from vqpipe.runtime.host import HostScalar

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)
"""Dtypes that indices may have."""
Names = Sequence[Sequence[str] | None]
"""Per group, the name (word) of each code, or None."""
CodebookKind = Literal["none", "words", "patches"]
"""The pretrained codebooks that a quantizer can need."""


class QuantizerParams(Params):
    """What the params of every quantizer say. A method's model adds its fields, and `kind` and `dim` among them.

    The properties are facts that can depend on the fields; params are refused by them when they are read.
    """

    if TYPE_CHECKING:  # fields of each model, or, of a quantizer over another, properties

        @property
        def kind(self) -> str:
            """The name in `QUANTIZERS`."""

        @property
        def dim(self) -> int:
            """d of the z that the quantizer receives; 1x1 convolutions map from and to the trunk's channels."""

    @property
    def codebook(self) -> CodebookKind:
        """The pretrained codebook that the quantizer is made from; `none` where it makes its own codes."""
        return "none"

    @property
    def trains_codes(self) -> bool:
        """Whether a loss on the code vectors (`Quantized.vectors`) trains something: the codes, or what makes them."""
        return True

    @property
    def to_train_codes(self) -> str:
        """Where `trains_codes` is False but need not be: what to set, for a message (`the quantizer's x to true`)."""
        return ""

    @property
    def label(self) -> str:
        """The quantizer in a message: its kind, and that of what it is built over."""
        return self.kind


@dataclass(frozen=True)
class About:
    """What documentation and reports say about a quantizer."""

    title: str
    """The name that papers call it by."""
    codes: str
    """Where its codes come from, as a table's cell."""
    moved_by: str
    """What moves the codes in training, as a table's cell."""
    papers: str
    """Names and arXiv numbers."""
    example: Mapping[str, Any]
    """Small valid params, as in YAML, with `dim` 8; the property tests run over them."""


@dataclass(frozen=True)
class Codebook:
    """One group's code vectors, without gradient, and the codes' names where they have any."""

    group: str
    """What the group codes for: `code`, or `adjective` and `noun`."""
    vectors: Float[Tensor, "K d"]
    names: list[str] | None = None
    metric: Metric = "euclidean"
    """The distance among them: that of the method's search, and `euclidean` where it does not search."""


@dataclass(frozen=True)
class Quantized:
    """The result of one forward pass of a quantizer."""

    z_q: Float[Tensor, "b d h w"]
    """The quantised latent, float32; in the backward pass its gradient goes to z."""
    indices: Int64[Tensor, "b g h w"]
    """The code of each position in each group, in [0, num_codes[g])."""
    loss: Float[Tensor, ""]
    """The method's own loss, with the weights of its params."""
    terms: dict[str, Tensor]
    """The loss's terms by name, unweighted scalars without gradient, for the curves."""
    vectors: tuple[Float[Tensor, "K dg"], ...]
    """Per group, the code vectors of this pass, with gradient where the method trains them. Losses on codes gather
    `vectors[g][indices[:, g]]`. Empty for methods that have no code vectors."""


class Quantizer(nn.Module, ABC):
    """Maps a latent to a finite set of codes, and indices back to codes.

    It computes in float32 and keeps its codes so: `half`, `bfloat16`, `double` and `to(dtype)` do not change its
    dtypes, and latents of any floating dtype are taken. In eval mode a latent that is not finite is an error; in
    training it makes `z_q` or the loss NaN or infinite, which the training loop looks for.

    Everything that a checkpoint needs is a parameter or a buffer, except the codes' names: a checkpoint keeps those
    separately and gives them to `from_state`.
    """

    kind: ClassVar[str]
    """The name in `QUANTIZERS` and in the params."""
    Params: ClassVar[type[QuantizerParams]]
    """The model of its params."""
    about: ClassVar[About]
    """What documentation and reports say about it."""
    dim: int
    """d of the z that `forward` takes."""
    num_codes: tuple[int, ...]
    """K per group."""
    own_gradient: bool = False
    """Whether `z_q` carries the method's own gradient, to z and to what it trains (a softmax over codes, a bounded
    rounding). Otherwise an estimator passes the gradient of `z_q` to z alone, and the loss trains the codes."""
    estimator: Estimator = "straight_through"
    """How the gradient of `z_q` reaches z where it is not the method's own: a name in `ESTIMATORS`."""
    frozen_buffers: tuple[str, ...] = ()
    """Its own buffers that never change, such as vectors of a pretrained codebook: averages of weights skip them."""

    @cached_property
    def _started(self) -> HostScalar:
        """Of the buffer `initialised`."""
        return HostScalar()

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
        """Quantise a latent; `progress`, the share of the training that is done, drives temperatures and annealing."""

    @abstractmethod
    def indices(self, z: Float[Tensor, "b d h w"]) -> Int64[Tensor, "b g h w"]:
        """The indices that `forward` gives in eval mode, without its losses. Changes no state and has no gradient.

        Raises:
            MismatchError: another shape, or values that are not finite.
        """

    @abstractmethod
    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b d h w"]:
        """The latent of given indices, float32: equal to the `z_q` that came with them in eval mode.

        Raises:
            MismatchError: indices of another shape, or out of range.
        """

    def continuous(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"] | None:
        """What is quantised in the space of the codes, float32, in eval mode: a bounded or normalised latent where the
        method makes one before it takes a code, here z itself. The decoder can be given it in place of `z_q`.

        None where z is in another space than the codes (a method that takes codes by logits of z).
        """
        return z.float()

    @abstractmethod
    def codebooks(self) -> list[Codebook]:
        """The codes of each group as they are now, in the order of the indices' groups."""

    def initialise(self, z: Float[Tensor, "b d h w"]) -> None:
        """Set what starts from data from one batch of latents; a second call does nothing.

        The first forward pass in training does this by itself. A trainer that copies the weights before that
        (averaged weights, say) calls it first. Methods that start from nothing but their params do nothing here.
        """

    def waits_for_data(self) -> bool:
        """Whether `initialise` still has something to set: the buffer `initialised`, where there is one, as the host
        knows it. The device is asked once, and again only after the buffer was loaded or moved."""
        done = self._buffers.get("initialised")
        return done is not None and not self._started.get(done)

    @classmethod
    def from_codebook(cls, config: Any, codebook: PretrainedCodebook) -> Quantizer:
        """A quantizer ready to train. Here from no pretrained codebook: the params are all that it needs.

        Raises:
            MismatchError: the codebook is not the kind that the params need, or too small for them.
        """
        if codebook is not None:
            raise _wrong_codebook(cls.kind, codebook, "none")
        return cls(config)

    @classmethod
    def skeleton(cls, config: Any, tensors: Mapping[str, Tensor], names: Names | None) -> Quantizer:
        """A quantizer with the shapes of `tensors`, which `from_state` then loads; here the params give every shape.

        A missing name is a KeyError.
        """
        return cls(config)

    @classmethod
    def from_state(
        cls, config: QuantizerParams, tensors: Mapping[str, Tensor], names: Names | None = None
    ) -> Quantizer:
        """The quantizer whose `state_dict()` is `tensors`, in eval mode.

        Args:
            config: the params that it was built with.
            tensors: its state, by name.
            names: per group, the names of its codes, as `codebooks()` gave them.

        Raises:
            ArtifactError: the tensors are not those of this quantizer.
            MismatchError: there are more or fewer names than codes.
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

    def register_vectors(self, name: str, vectors: Tensor, trained: bool) -> None:
        """Register vectors of a pretrained codebook: as a parameter where they are trained, else as a buffer."""
        if trained:
            self.register_parameter(name, nn.Parameter(vectors))
        else:
            self.register_buffer(name, vectors)
            self.frozen_buffers = (*self.frozen_buffers, name)


def rows_of(z: Float[Tensor, "b d h w"]) -> Float[Tensor, "n d"]:
    """A latent's positions as rows, image by image in raster order; n = b * h * w."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def latent_of(rows: Float[Tensor, "n d"], like: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
    """The inverse of `rows_of`: rows as a latent of the shape of `like`."""
    b, d, h, w = like.shape
    return rows.view(b, h, w, d).permute(0, 3, 1, 2)


def check_latent(z: Any, dim: int, values: bool) -> None:
    """Raise `MismatchError` unless `z` is a floating-point tensor (b, dim, h, w); with `values`, unless it is finite.

    Looking at values waits for the device, so a training step leaves it to the loop's check of loss and gradients.
    """
    expected = f"a floating-point tensor (b, {dim}, h, w)"
    if not isinstance(z, Tensor):
        raise MismatchError("this is not a latent", found=type(z).__name__, expected=expected)
    if z.ndim != 4 or z.shape[1] != dim or not z.is_floating_point():
        found = f"{z.dtype} of shape {tuple(z.shape)}"
        raise MismatchError("the latent does not fit this quantizer", found=found, expected=expected)
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
    problem = "the indices do not fit this tokenizer"
    if not isinstance(indices, Tensor):
        found = type(indices).__name__
        raise MismatchError(problem, found=found, expected=expected, run="torch.as_tensor(indices)")
    found = f"{indices.dtype} of shape {tuple(indices.shape)}"
    if indices.dtype not in WHOLE:
        run = "indices.long(), where they are whole numbers" if indices.is_floating_point() else None
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


def describe(codebook: PretrainedCodebook) -> str:
    """A pretrained codebook in a few words, for messages."""
    if codebook is None:
        return "no codebook"
    if isinstance(codebook, WordsCodebook):
        return f"a words codebook ({len(codebook.adjectives)} adjectives, {len(codebook.nouns)} nouns)"
    if isinstance(codebook, PatchesCodebook):
        return f"a patches codebook ({' x '.join(str(n) for n in codebook.vectors.shape)})"
    return f"a {type(codebook).__name__}"


def need_words(kind: str, codebook: PretrainedCodebook) -> WordsCodebook:
    """The codebook as words, or `MismatchError`."""
    if not isinstance(codebook, WordsCodebook):
        raise _wrong_codebook(kind, codebook, "words")
    return codebook


def need_patches(kind: str, codebook: PretrainedCodebook) -> PatchesCodebook:
    """The codebook as patches, or `MismatchError`."""
    if not isinstance(codebook, PatchesCodebook):
        raise _wrong_codebook(kind, codebook, "patches")
    return codebook


def _wrong_codebook(kind: str, codebook: PretrainedCodebook, needed: CodebookKind) -> MismatchError:
    return MismatchError(
        f"quantizer {kind} and its codebook do not fit",
        found=describe(codebook),
        expected="no codebook" if needed == "none" else f"a {needed} codebook",
        run={"words": "dvc repro graph", "patches": "dvc repro cluster", "none": None}[needed],
    )


def float_matrix(values: Any, what: str) -> Float[Tensor, "K d"]:
    """Vectors of a pretrained codebook, copied to a float32 (K, d) tensor on the CPU.

    Raises:
        MismatchError: not a matrix, or with values that are not finite.
    """
    tensor = torch.as_tensor(values).detach().to("cpu", torch.float32, copy=True)
    if tensor.ndim != 2 or not tensor.isfinite().all():
        found = f"shape {tuple(tensor.shape)}, {int((~tensor.isfinite()).sum())} values not finite"
        raise MismatchError(
            f"the codebook's {what} cannot be used as vectors", found=found, expected="finite, (K, d)"
        )
    return tensor
