"""Lookup-free quantisation: every dimension is reduced to its sign, so that K = 2^d.

Paper: MAGVIT-v2, arXiv 2310.05737, section 3.1.

value = 1 where z > 0, else -1; index = sum_i 2^i [z_i > 0]. The gradient of z_q goes to z unchanged. The loss is

    entropy_weight * (sample_weight * E[H(p)] - batch_weight * H(E[p])) + commitment_weight * mean (z - sg(z_q))^2

with p(k | z) = softmax_k(-inverse_temperature |z - e_k|^2) over all 2^d codes, entropies in nats, means over
positions. All of it moves the encoder; there are no codes to train.

Neither entropy needs the n x K probabilities, and both are exact:

- All |e_k|^2 are equal, so p is the product over dimensions of sigmoid(4 inverse_temperature e_ki z_i), and the
  entropy of independent bits is the sum of theirs.
- The bits of the *mean* E[p] are not independent. But a row's p is the outer product of its distribution over the
  first half of the bits and over the second half, A_n (2^(d/2)) and B_n, so E[p], laid out as a matrix, is
  A^T B / n: one product of (n, 2^(d/2)) matrices. At d = 18 and n = 4,096 that is 8 MB a side and 1 MB for E[p],
  where n x K is 4.3 GB.

E[p] is taken over all ranks.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from vqpipe.quantizers.contract import About
from vqpipe.quantizers.estimators import straight_through
from vqpipe.quantizers.lattice import LatticeQuantizer
from vqpipe.quantizers.soft import EntropyParams, entropy, mean_over_ranks


class SignParams(EntropyParams):
    """The params of quantizers that reduce every dimension to its sign: K = 2^dim."""

    dim: int = Field(ge=1, le=24)
    """Dimension of the z that the quantizer receives: bits of a code; 18 in the papers."""
    commitment_weight: float = Field(ge=0)
    """Weight of |z - sg(z_q)|^2; common: 0.25 for `lfq`, 0 for `bsq`."""

    @property
    def trains_codes(self) -> bool:
        """False: there are no code vectors."""
        return False


class LfqParams(SignParams):
    """Every dimension reduced to its sign: K = 2^dim (LFQ, MAGVIT-v2)."""

    kind: Literal["lfq"]


class LookupFreeQuantizer(LatticeQuantizer):
    """One group of 2^dim codes with entries of +-1."""

    kind = "lfq"
    Params: ClassVar[type[SignParams]] = LfqParams
    about = About(
        title="LFQ",
        codes="a fixed grid: the sign of each dimension, K = 2^d",
        moved_by="nothing",
        papers="MAGVIT-v2 2310.05737",
        example={
            "kind": "lfq", "dim": 8, "commitment_weight": 0.25, "entropy_weight": 0.05, "sample_weight": 1.0,
            "batch_weight": 1.0, "inverse_temperature": 2.0,
        },
    )  # fmt: skip
    config: SignParams
    entry: float = 1.0
    """Absolute value of the codes' entries."""

    @property
    def joint_bits(self) -> int:
        """Bits whose joint distribution the batch's entropy is of; with fewer than d, entropies are added up."""
        return self.dim

    @staticmethod
    def levels_of(config: SignParams) -> list[int]:
        """See `LatticeQuantizer.levels_of`."""
        return [2] * config.dim

    def values(self, digits: Int64[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """See `LatticeQuantizer.values`."""
        return (digits.float() * 2 - 1) * self.entry

    def round(self, rows: Float[Tensor, "*b d"]) -> Int64[Tensor, "*b d"]:
        """See `LatticeQuantizer.round`."""
        return (rows > 0).long()

    def prepare(self, rows: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """See `LatticeQuantizer.prepare`: here unchanged."""
        return rows

    def quantise(
        self, rows: Float[Tensor, "n d"]
    ) -> tuple[Tensor, Int64[Tensor, "n d"], Tensor, dict[str, Tensor]]:
        """See `LatticeQuantizer.quantise`."""
        digits = self.round(rows)
        rows = self.prepare(rows)
        codes = self.values(digits)
        commitment = F.mse_loss(rows, codes)
        loss, terms = self.config.commitment_weight * commitment, {"commitment": commitment.detach()}
        if self.config.entropy_weight > 0:
            logits = rows * (4 * self.config.inverse_temperature * self.entry)
            sample = bit_entropy(logits).sum(-1).mean()
            means = torch.cat([mean_distribution(part) for part in torch.split(logits, self.joint_bits, 1)])
            batch = entropy(mean_over_ranks(means, self.training))
            penalty = self.config.sample_weight * sample - self.config.batch_weight * batch
            loss = loss + self.config.entropy_weight * penalty
            terms |= {"sample_entropy": sample.detach(), "batch_entropy": batch.detach()}
        return straight_through(rows, codes), digits, loss, terms


def bit_entropy(logits: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Entropy of a bit that is 1 with probability sigmoid(logit), in nats."""
    return F.softplus(logits) - logits * logits.sigmoid()


def mean_distribution(logits: Float[Tensor, "n d"]) -> Float[Tensor, " K"]:
    """The mean over rows of the distribution of d independent bits, over all K = 2^d of their values.

    Memory O(n 2^(d/2) + 2^d).
    """
    half = logits.shape[1] // 2
    low, high = _joint(logits[:, :half]), _joint(logits[:, half:])
    return (high.T @ low).flatten() / logits.shape[0]


def _joint(logits: Float[Tensor, "n m"]) -> Float[Tensor, "n M"]:
    """The distribution of m independent bits over their 2^m values, the first bit least significant."""
    joint = logits.new_ones(logits.shape[0], 1)
    for bit in logits.unbind(1):
        sides = torch.stack([(-bit).sigmoid(), bit.sigmoid()], 1)
        joint = (sides[:, :, None] * joint[:, None, :]).flatten(1)
    return joint
