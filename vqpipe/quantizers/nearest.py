"""What all quantizers with a nearest-code search share: grouping, search, code losses, straight-through,
decode.

A method says where its code vectors come from (`live_codes`). It may also say where its codes lie (`place`), how
codes are chosen (`search`), and what they learn from (`learn`); the rest is here. Letters: b batch, g groups, d
latent dimension, dg a group's share of it, K codes of a group, n = b * h * w rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor

from vqpipe.codebooks.search import Metric, nearest
from vqpipe.errors import MismatchError
from vqpipe.params.quantizers.nearest import BetaOn, CommittedParams, NearestCodeParams
from vqpipe.quantizers.contract import (
    Codebook,
    Names,
    Quantized,
    QuantizerModule,
    check_indices,
    check_latent,
)
from vqpipe.quantizers.estimators import ESTIMATORS
from vqpipe.quantizers.memo import Memo
from vqpipe.runtime.distributed import broadcast_module, gather


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


class NearestCodeQuantizer(QuantizerModule):
    """z is split into one part per group, and each part takes its nearest code.

    Always in float32, whatever autocast says. In training the codes are made anew on every forward pass; in
    eval without gradients they are made once and kept until a parameter or buffer changes.

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
        """The code vectors of each group, float32, with gradient to whatever the method trains."""

    def set_from_data(self, rows: Float[Tensor, "g n dg"]) -> None:
        """Set the parameters from latents of the first batch, split by group; for methods with
        `data_init`."""
        raise NotImplementedError(f"{self.kind} has no initialisation from data")

    def place(self, rows: Float[Tensor, "n dg"]) -> Float[Tensor, "n dg"]:
        """Latents of a group where its codes lie; what the losses and the estimator see. Here as they are."""
        return rows

    def search(
        self, rows: Float[Tensor, "n dg"], codes: Float[Tensor, "K dg"], progress: float
    ) -> Int64[Tensor, " n"]:
        """The code of each row: here the nearest."""
        return nearest(rows, codes, self.metric)

    def learn(
        self,
        rows: Float[Tensor, "n dg"],
        codes: Float[Tensor, "K dg"],
        indices: Int64[Tensor, " n"],
        progress: float,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """A group's loss and its terms (`code_losses`); a method that moves codes by itself does so here, in training.

        A method of one group may rely on being called once a pass, on every rank in training.
        """
        chosen = F.embedding(indices, codes)
        loss, commitment, codebook = code_losses(rows, chosen, self.beta, self.beta_on)
        return loss, {"commitment": commitment.detach(), "codebook": codebook.detach()}

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "b d h w"]) -> None:
        """Set the codes from one batch of latents where the params ask for it; a second call does nothing.

        The first forward pass in training does this by itself. A trainer that copies the weights before that
        (averaged weights, say) calls it first. With several ranks the batch is that of all of them, and rank 0's
        result is given to all.
        """
        if not self.data_init or bool(self.initialised):
            return
        with torch.autocast(z.device.type, enabled=False):
            whole = gather(z.detach().float())
            self.set_from_data(torch.stack([_rows(part) for part in self._split(whole)]))
        broadcast_module(self)
        self.initialised.fill_(True)

    def forward(self, z: Float[Tensor, "b d h w"], progress: float = 1.0) -> Quantized:
        """See `Quantizer.forward`; `progress` has no effect but where a method says so."""
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
            rows = self.place(_rows(part))
            index = self.search(rows, group_codes, progress)
            loss, found = self.learn(rows, group_codes, index, progress)
            suffix = f"_{name}" if self.groups > 1 else ""
            terms |= {f"{term}{suffix}": value for term, value in found.items()}
            losses.append(loss)
            z_q = ESTIMATORS[self.estimator](rows, F.embedding(index, group_codes))
            outputs.append(_grid(z_q, part))
            indices.append(index.view(z.shape[0], *z.shape[2:]))
        loss = torch.stack(losses).sum()
        return Quantized(torch.cat(outputs, dim=1), torch.stack(indices, dim=1), loss, terms, codes)

    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b d h w"]:
        """The latent of given indices, float32.

        Raises:
            MismatchError: indices of another shape, or out of range.
        """
        check_indices(indices, self.num_codes)
        with torch.autocast(indices.device.type, enabled=False):
            codes = self._codes()
        parts = [
            F.embedding(indices[:, g].long(), group).permute(0, 3, 1, 2) for g, group in enumerate(codes)
        ]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def codebooks(self) -> list[Codebook]:
        """The codes of each group as they are now, and their names where they have any."""
        codes = self._codes()
        return [
            Codebook(name, vectors.detach().clone(), list(names) if names is not None else None, self.metric)
            for name, vectors, names in zip(self.group_names, codes, self.names, strict=True)
        ]

    def train(self, mode: bool = True) -> NearestCodeQuantizer:
        """Set the mode; codes kept for eval are forgotten."""
        self._kept.clear()
        super().train(mode)
        return self

    def _codes(self) -> tuple[Tensor, ...]:
        if self.training or torch.is_grad_enabled():
            return self.live_codes()
        return self._kept.get([*self.parameters(), *self.buffers()], self.live_codes)

    def _split(self, z: Tensor) -> tuple[Tensor, ...]:
        return z.chunk(self.parts, dim=1)


def _rows(part: Tensor) -> Tensor:
    """(b, dg, h, w) to (b * h * w, dg)."""
    return part.permute(0, 2, 3, 1).reshape(-1, part.shape[1])


def _grid(rows: Tensor, like: Tensor) -> Tensor:
    """(b * h * w, dg) to the shape of `like`, (b, dg, h, w)."""
    b, d, h, w = like.shape
    return rows.view(b, h, w, d).permute(0, 3, 1, 2)


def _checked_names(names: Names | None, num_codes: tuple[int, ...]) -> tuple[tuple[str, ...] | None, ...]:
    given = tuple(None if group is None else tuple(group) for group in names or [None] * len(num_codes))
    if len(given) != len(num_codes) or any(
        g is not None and len(g) != k for g, k in zip(given, num_codes, strict=True)
    ):
        found = f"{[None if g is None else len(g) for g in given]} names"
        raise MismatchError("names and codes do not fit", found=found, expected=f"{list(num_codes)} codes")
    return given
