"""What the quantizers with a softmax over all codes share: one group of learned codes, rows, decode.

Their z_q carries its own gradient, to z and to the codes. A method says how rows are assigned (`assign`); the rest
is here. Letters: b batch, d dimension, K codes, n = b * h * w rows, r rows of a tile.

By nature such a method computes n x K values on every training pass, which no search can avoid. They are held for
a tile of rows at a time and computed again in the backward pass (`vqpipe.quantizers.tiles`): time is O(n K d),
memory O(n d + K d + tile).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from vqpipe.params.quantizers.soft import SoftCodeParams
from vqpipe.quantizers.contract import Codebook, Quantized, check_indices, check_latent
from vqpipe.quantizers.moments import draw_rows
from vqpipe.quantizers.priors import WithoutPrior
from vqpipe.runtime.distributed import broadcast_module, gather


@dataclass(frozen=True)
class Assigned:
    """What a method makes of rows; the loss and its terms as in `Quantized`."""

    z_q: Float[Tensor, "n d"]
    indices: Int64[Tensor, " n"]
    loss: Float[Tensor, ""]
    terms: dict[str, Tensor]


class SoftCodeQuantizer(WithoutPrior):
    """One group; the codes are a parameter of shape (K, d).

    Always in float32, whatever autocast says. Nothing is shared between ranks but what a method says.

    Args:
        config: dim and num_codes; the codes start standard normal.
        data_init: set the codes from the first training batch (`initialise`).
    """

    own_gradient = True
    initialised: Tensor

    def __init__(self, config: SoftCodeParams, data_init: bool = False) -> None:
        super().__init__()
        self.dim = config.dim
        self.num_codes = (config.num_codes,)
        self.data_init = data_init
        self.register_buffer("initialised", torch.tensor(not data_init))
        self.codes = nn.Parameter(torch.randn(config.num_codes, config.dim))

    @abstractmethod
    def assign(self, rows: Float[Tensor, "n d"], progress: float) -> Assigned:
        """Quantise rows, float32; in training or in eval as the module's mode says."""

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "b d h w"]) -> None:
        """See `QuantizerModule.initialise`; with several ranks the batch is that of all of them, and rank 0's result is
        given to all."""
        if not self.data_init or bool(self.initialised):
            return
        self.set_from_data(self._rows(gather(z.detach().float())))
        broadcast_module(self)
        self.initialised.fill_(True)

    def set_from_data(self, rows: Float[Tensor, "n d"]) -> None:
        """Codes are latents of the first batch, drawn at random."""
        self.codes.copy_(draw_rows(rows, self.num_codes[0]))

    def forward(self, z: Float[Tensor, "b d h w"], progress: float = 1.0) -> Quantized:
        """See `Quantizer.forward`."""
        check_latent(z, self.dim, not self.training)
        if self.training:
            self.initialise(z)
        with torch.autocast(z.device.type, enabled=False):
            done = self.assign(self._rows(z.float()), progress)
        b, d, h, w = z.shape
        z_q = done.z_q.view(b, h, w, d).permute(0, 3, 1, 2)
        return Quantized(z_q, done.indices.view(b, 1, h, w), done.loss, done.terms, (self.codes,))

    def decode(self, indices: Int[Tensor, "b 1 h w"]) -> Float[Tensor, "b d h w"]:
        """The latent of given indices, float32.

        Raises:
            MismatchError: indices of another shape, or out of range.
        """
        check_indices(indices, self.num_codes)
        return F.embedding(indices[:, 0].long(), self.codes).permute(0, 3, 1, 2)

    @torch.no_grad()
    def codebooks(self) -> list[Codebook]:
        """The codes as they are now."""
        return [Codebook("code", self.codes.detach().clone())]

    def _rows(self, z: Tensor) -> Tensor:
        return z.permute(0, 2, 3, 1).reshape(-1, self.dim)


def gumbel_noise(like: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Standard Gumbel noise, -log(-log u), from torch's global generator of the tensor's device.

    Source: Jang et al., arXiv 1611.01144, section 2; -log u is drawn as an exponential variable.
    """
    return -torch.empty_like(like).exponential_().clamp_min(torch.finfo(like.dtype).tiny).log()


def hard_mixture(
    weights: Float[Tensor, "n K"], indices: Int64[Tensor, " n"], codes: Float[Tensor, "K d"]
) -> Float[Tensor, "n d"]:
    """`codes[indices]`, exactly, with the gradient of (onehot + weights - sg(weights)) @ codes.

    That is: to the weights that of the mixture, to the codes that of the chosen ones. The usual sum is off by a
    rounding, so that decoded indices would differ from `z_q`; here what is added is exactly zero.
    """
    chosen = F.embedding(indices, codes)
    if not weights.requires_grad:
        return chosen
    return chosen + (weights - weights.detach()) @ codes.detach()
