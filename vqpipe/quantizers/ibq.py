"""Index backpropagation: all codes are updated, through the softmax over all of them.

Paper: IBQ, Taming Scalable Visual Tokenizer for Autoregressive Image Generation, arXiv 2412.02692, section 3.2.

With p = softmax_k(z . e_k), z_q is the code of the largest product with the gradient of (onehot + p - sg(p)) @
codes: to the chosen code directly, and through p to z and to every code. The losses, means over all elements:

    double quantisation = (z_q - z)^2 + (z - sg(e))^2 + beta (sg(z) - e)^2

where z_q carries that gradient and e is the chosen code with a plain one. Their values are the same number, the
term `distance`. The entropy penalty is that of MAGVIT-v2 on the distributions softmax(inverse_temperature * z .
e_k): sample_weight * E[H(p)] - batch_weight * H(E[p]). E[p] is taken over all ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqpipe.params.quantizers.soft import IbqParams
from vqpipe.quantizers.entropies import entropy, mean_over_ranks
from vqpipe.quantizers.soft import Assigned, SoftCodeQuantizer, hard_mixture
from vqpipe.quantizers.tiles import in_row_tiles


class IndexBackpropagationQuantizer(SoftCodeQuantizer):
    """One group; nothing is sampled, so training and eval give the same codes.

    Passes compute n x K probabilities (`vqpipe.quantizers.soft`).
    """

    kind = "ibq"

    def __init__(self, config: IbqParams) -> None:
        super().__init__(config, data_init=config.init == "data")
        self.config = config
        nn.init.uniform_(self.codes, -1 / config.num_codes, 1 / config.num_codes)

    def assign(self, rows: Float[Tensor, "n d"], progress: float) -> Assigned:
        """See `SoftCodeQuantizer.assign`; nothing is annealed, so `progress` has no effect."""
        penalised = self.config.entropy_weight > 0

        def step(part: Tensor) -> tuple[Tensor, ...]:
            logits = part @ self.codes.T
            index = logits.argmax(-1)
            z_q = hard_mixture(logits.softmax(-1), index, self.codes)
            if not penalised:
                return z_q, index
            logs = (logits * self.config.inverse_temperature).log_softmax(-1)
            probabilities = logs.exp()
            return z_q, index, -(probabilities * logs).sum(-1), probabilities.sum(0, keepdim=True)

        parts = in_row_tiles(step, rows, self.num_codes[0])
        z_q, index, *rest = (torch.cat(values) for values in zip(*parts, strict=True))
        chosen = F.embedding(index, self.codes)
        distance = F.mse_loss(z_q, rows)
        loss = distance + F.mse_loss(rows, chosen.detach())
        loss = loss + self.config.beta * F.mse_loss(chosen, rows.detach())
        terms = {"distance": distance.detach()}
        if penalised:
            sample = rest[0].mean()
            batch = entropy(mean_over_ranks(rest[1].sum(0) / rows.shape[0], self.training))
            penalty = self.config.sample_weight * sample - self.config.batch_weight * batch
            loss = loss + self.config.entropy_weight * penalty
            terms |= {"sample_entropy": sample.detach(), "batch_entropy": batch.detach()}
        return Assigned(z_q, index, loss, terms)
