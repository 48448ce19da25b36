"""Quantizers with a nearest-code search: grouping, search, code losses, estimator, decode.

A method says where its code vectors come from (`live_codes`). It may also say how latents are compared with them
(`prepare`), how codes are chosen (`search`, `search_in_training`), what they learn from (`losses`) and how they move
without a gradient (`move_codes`); the rest is here. Letters: b batch, g groups, d latent dimension, dg a group's share
of it, K codes of a group, n = b * h * w rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from pydantic import Field
from torch import Tensor, nn

from vqpipe.codebooks.search import Metric, nearest
from vqpipe.errors import MismatchError
from vqpipe.quantizers.contract import (
    Codebook,
    Names,
    Quantized,
    Quantizer,
    QuantizerParams,
    check_indices,
    check_latent,
    latent_of,
    rows_of,
)
from vqpipe.quantizers.estimators import ESTIMATORS, Estimator
from vqpipe.quantizers.moments import draw_rows
from vqpipe.runtime.distributed import broadcast_module, gather
from vqpipe.runtime.host import written

BetaOn = Literal["commitment", "codebook"]
"""Which term beta weighs; the other term has weight 1. See `code_losses`."""
T = TypeVar("T")


class CommittedParams(QuantizerParams):
    """The params of every quantizer with a nearest-code search."""

    dim: int = Field(ge=1)
    """Dimension of the z that the quantizer receives; 1x1 convolutions around it map from and to the trunk's
    channels."""
    beta: float = Field(ge=0)
    """Weight of one of the two code losses; `beta_on` says which. Of the commitment |z - sg(e)|^2 where the method
    has no other."""
    estimator: Estimator = "straight_through"
    """How the gradient of z_q reaches z: `straight_through` as it is (VQ-VAE), or `rotation`: turned and scaled as z
    has to be to become its code (the rotation trick)."""


class NearestCodeParams(CommittedParams):
    """The same for methods whose codes are moved by a loss."""

    beta_on: BetaOn
    """`commitment`: beta weighs |z - sg(e)|^2 (VQ-VAE, the papers). `codebook`: beta weighs |sg(z) - e|^2
    (VQGAN's legacy order)."""


class LearnedCodesParams(NearestCodeParams):
    """The same for a codebook that is a parameter itself."""

    num_codes: int = Field(ge=1)
    """K, the number of codes."""
    init: Literal["uniform", "data"]
    """Codes at the start: `uniform` in +-1/K (the papers' form), or `data`: latents of the first batch drawn
    at random."""


def code_losses(
    z: Float[Tensor, "n dg"], codes: Float[Tensor, "n dg"], beta: float, beta_on: BetaOn
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """The two losses between latents and their codes: (weighted sum, commitment, codebook); means over all
    elements.

    commitment = |z - sg(e)|^2 moves the encoder, codebook = |sg(z) - e|^2 moves the codes. `beta_on` says
    which of them beta weighs, the other has weight 1:

    - `commitment`: codebook + beta * commitment (VQ-VAE, arXiv 1711.00937, eq. 3; VQGAN, arXiv 2012.09841,
      eq. 4);
    - `codebook`: commitment + beta * codebook, the "legacy" default of VQGAN's public code, and with beta =
      0.33 the weights of VQGAN-LC (arXiv 2406.11837, eq. 1).
    """
    commitment = F.mse_loss(z, codes.detach())
    codebook = F.mse_loss(codes, z.detach())
    if beta_on == "commitment":
        return codebook + beta * commitment, commitment, codebook
    return commitment + beta * codebook, commitment, codebook


class NearestCodeQuantizer(Quantizer):
    """z is split into one part per group, and each part takes its nearest code.

    Always in float32, also under autocast. In training the codes are made on every forward pass; in eval without
    gradients they are made once and kept until a parameter or buffer is written to. A write through `.data` is not
    noticed (`Memo`): call `eval()` after it.

    Args:
        config: dim, beta, estimator, and beta_on where the method has both code losses.
        group_names: what each group codes for.
        num_codes: K per group.
        names: per group, the codes' names or None.
        metric: of the search.
        data_init: set the codes from the first training batch (`initialise`).
    """

    initialised: Tensor

    def __init__(
        self,
        config: CommittedParams,
        group_names: Sequence[str],
        num_codes: Sequence[int],
        names: Names | None = None,
        metric: Metric = "euclidean",
        data_init: bool = False,
    ) -> None:
        super().__init__()
        self.dim = config.dim
        self.beta, self.estimator = config.beta, config.estimator
        self.beta_on: BetaOn = config.beta_on if isinstance(config, NearestCodeParams) else "commitment"
        self.group_names = tuple(group_names)
        self.num_codes = tuple(num_codes)
        self.names = _checked_names(names, self.num_codes)
        self.metric: Metric = metric
        self.data_init = data_init
        self.register_buffer("initialised", torch.tensor(not data_init))
        self._kept: Memo[tuple[Tensor, ...]] = Memo()

    @abstractmethod
    def live_codes(self) -> tuple[Float[Tensor, "K dg"], ...]:
        """The code vectors of each group, float32, with gradient to all that the method trains."""

    def set_from_data(self, rows: Float[Tensor, "g n dg"]) -> None:
        """Set the parameters from latents of the first batch, split by group; for methods with `data_init`."""
        raise NotImplementedError(f"{self.kind} has no initialisation from data")

    def prepare(self, rows: Float[Tensor, "n dg"]) -> Float[Tensor, "n dg"]:
        """Latents of a group as search, losses and estimator see them: here unchanged."""
        return rows

    def search(self, rows: Float[Tensor, "n dg"], codes: Float[Tensor, "K dg"]) -> Int64[Tensor, " n"]:
        """The code of each row, called without gradients: here the nearest."""
        return nearest(rows, codes, self.metric)

    def search_in_training(
        self, rows: Float[Tensor, "n dg"], codes: Float[Tensor, "K dg"], progress: float
    ) -> Int64[Tensor, " n"]:
        """The code of each row in a training pass: here as in eval."""
        return self.search(rows, codes)

    def losses(
        self,
        rows: Float[Tensor, "n dg"],
        codes: Float[Tensor, "K dg"],
        indices: Int64[Tensor, " n"],
        progress: float,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """A group's loss and its terms: here `code_losses`."""
        chosen = F.embedding(indices, codes)
        loss, commitment, codebook = code_losses(rows, chosen, self.beta, self.beta_on)
        return loss, {"commitment": commitment.detach(), "codebook": codebook.detach()}

    def move_codes(self, rows: Float[Tensor, "n dg"], indices: Int64[Tensor, " n"]) -> None:
        """Move codes without a gradient, after a group's losses in training; rows are detached. Here they stay.

        A method of one group may rely on one call a pass, on every rank.
        """

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "b d h w"]) -> None:
        """See `Quantizer.initialise`; only where the params ask for it. With several ranks the batch is that of all of
        them, and rank 0's result is given to all."""
        if not self.data_init or not self.waits_for_data():
            return
        with torch.autocast(z.device.type, enabled=False):
            whole = gather(z.detach().float())
            self.set_from_data(torch.stack([rows_of(part) for part in self._split(whole)]))
        broadcast_module(self)
        self._started.set(self.initialised, True)

    def forward(self, z: Float[Tensor, "b d h w"], progress: float = 1.0) -> Quantized:
        """See `Quantizer.forward`; `progress` has an effect only where a method says so."""
        check_latent(z, self.dim, not self.training)
        if self.training:
            self.initialise(z)
        with torch.autocast(z.device.type, enabled=False):
            return self._quantise(z.float(), progress)

    def _quantise(self, z: Tensor, progress: float) -> Quantized:
        codes = self._codes()
        outputs, indices, losses = [], [], []
        terms: dict[str, Tensor] = {}
        for name, part, group_codes in zip(self.group_names, self._split(z), codes, strict=True):
            rows = self.prepare(rows_of(part))
            with torch.no_grad():
                if self.training:
                    index = self.search_in_training(rows, group_codes, progress)
                else:
                    index = self.search(rows, group_codes)
            loss, found = self.losses(rows, group_codes, index, progress)
            if self.training:
                with torch.no_grad():
                    self.move_codes(rows.detach(), index)
            suffix = f"_{name}" if self.groups > 1 else ""
            terms |= {f"{term}{suffix}": value for term, value in found.items()}
            losses.append(loss)
            z_q = ESTIMATORS[self.estimator](rows, F.embedding(index, group_codes))
            outputs.append(latent_of(z_q, part))
            indices.append(index.view(z.shape[0], *z.shape[2:]))
        loss = torch.stack(losses).sum()
        return Quantized(torch.cat(outputs, dim=1), torch.stack(indices, dim=1), loss, terms, codes)

    @torch.no_grad()
    def indices(self, z: Float[Tensor, "b d h w"]) -> Int64[Tensor, "b g h w"]:
        """See `Quantizer.indices`: the search alone."""
        check_latent(z, self.dim, True)
        with torch.autocast(z.device.type, enabled=False):
            return self._search(z.float(), self._codes())

    def _search(self, z: Tensor, codes: tuple[Tensor, ...]) -> Tensor:
        grid = (z.shape[0], *z.shape[2:])
        parts = zip(self._split(z), codes, strict=True)
        found = [self.search(self.prepare(rows_of(part)), own).view(grid) for part, own in parts]
        return torch.stack(found, dim=1)

    @torch.no_grad()
    def continuous(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"] | None:
        """See `Quantizer.continuous`: latents as `prepare` makes them."""
        parts = self._split(z.float())
        return torch.cat([latent_of(self.prepare(rows_of(part)), part) for part in parts], dim=1)

    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b d h w"]:
        """See `Quantizer.decode`."""
        check_indices(indices, self.num_codes)
        parts = [
            F.embedding(indices[:, g].long(), group).permute(0, 3, 1, 2)
            for g, group in enumerate(self._codes())
        ]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def codebooks(self) -> list[Codebook]:
        """See `Quantizer.codebooks`."""
        codes = self._codes()
        return [
            Codebook(name, vectors.detach().clone(), list(names) if names is not None else None, self.metric)
            for name, vectors, names in zip(self.group_names, codes, self.names, strict=True)
        ]

    def train(self, mode: bool = True) -> NearestCodeQuantizer:
        """Set the mode, also to what it is; codes kept for eval are forgotten."""
        self._kept.clear()
        super().train(mode)
        return self

    def _codes(self) -> tuple[Tensor, ...]:
        if self.training or torch.is_grad_enabled():
            return self._make_codes()
        return self._kept.get([*self.parameters(), *self.buffers()], self._make_codes)

    def _make_codes(self) -> tuple[Tensor, ...]:
        """`live_codes`, outside of a caller's autocast: what is kept is read by later calls outside of it."""
        with torch.autocast(self.initialised.device.type, enabled=False):
            return self.live_codes()

    def _split(self, z: Tensor) -> tuple[Tensor, ...]:
        return z.chunk(self.parts, dim=1)


class LearnedCodesQuantizer(NearestCodeQuantizer):
    """One group; the codes are a parameter of shape (K, d), uniform in +-1/K at the start or set from data.

    Args:
        config: the params.
        metric: of the search.
    """

    def __init__(self, config: LearnedCodesParams, metric: Metric = "euclidean") -> None:
        super().__init__(config, ["code"], [config.num_codes], metric=metric, data_init=config.init == "data")
        bound = 1 / config.num_codes
        self.codes = nn.Parameter(torch.empty(config.num_codes, config.dim).uniform_(-bound, bound))

    def live_codes(self) -> tuple[Float[Tensor, "K d"]]:
        """The parameter itself."""
        return (self.codes.float(),)

    def set_from_data(self, rows: Float[Tensor, "1 n d"]) -> None:
        """Codes are latents of the first batch, drawn at random."""
        self.codes.copy_(draw_rows(rows[0], self.num_codes[0]))


LEARNED_EXAMPLE: dict[str, Any] = {
    "dim": 8, "num_codes": 16, "beta": 0.25, "beta_on": "commitment", "init": "uniform",
}  # fmt: skip
"""`LearnedCodesParams` in small, for `About.example`."""


def unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length 1; those shorter than 1e-6 are divided by 1e-6."""
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-6)


class Memo(Generic[T]):
    """Remembers one value, keyed on the identity and version of its source tensors.

    An optimiser's step, `load_state_dict`, `.to(device)` and a copy of averaged weights by `p.copy_()` or
    `torch._foreach_copy_` change the key. What PyTorch does not count (see `written`) does not: after the
    `p.data.copy_()` of many helpers for averaged weights, call `clear`. Not part of a module's state.
    """

    def __init__(self) -> None:
        self._key: list[tuple[int, int, str] | None] = []
        self._value: T | None = None

    def get(self, sources: Iterable[Tensor], make: Callable[[], T]) -> T:
        """The remembered value, or `make()` where a source is another tensor, has been written to, or was made in
        inference mode, so that writes to it are not known.

        Under `torch.export` the sources are symbols: the value that is remembered is taken, as a constant.
        """
        if self._value is not None and torch.compiler.is_exporting():
            return self._value
        key = [written(source) for source in sources]
        if self._key != key or None in key or self._value is None:
            self._value = make()
            self._key = key
        return self._value

    def clear(self) -> None:
        """Forget the value."""
        self._key, self._value = [], None

    def __deepcopy__(self, memo: dict[int, object]) -> Memo[T]:
        return Memo()


def _checked_names(names: Names | None, num_codes: tuple[int, ...]) -> tuple[tuple[str, ...] | None, ...]:
    given = tuple(None if group is None else tuple(group) for group in names or [None] * len(num_codes))
    if len(given) != len(num_codes) or any(
        g is not None and len(g) != k for g, k in zip(given, num_codes, strict=True)
    ):
        found = f"{[None if g is None else len(g) for g in given]} names"
        raise MismatchError("names and codes do not fit", found=found, expected=f"{list(num_codes)} codes")
    return given
