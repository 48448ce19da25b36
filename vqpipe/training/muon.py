"""Muon: the matrices inside a network move by the orthogonal matrix next to their momentum, all else by AdamW.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). Steps have the root mean square of
AdamW's, 0.2 in units of the rate (Liu et al., arXiv 2502.16982, section 2.2), so that one rate can serve both.

`torch.optim.Muon` takes the same steps. It is not used, since it computes in bfloat16, for which a CPU without such
instructions takes 16 times as long as for float32, and since it takes matrices alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the iteration x <- (a + b x x^T + c (x x^T)^2) x, whose slope at 0 is the steepest (Jordan et al.)."""
ITERATIONS = 5
RMS = 0.2
"""Root mean square of a step's elements, in units of the rate: about that of AdamW's."""
SMALLEST_NORM = 1e-7


def orthogonalised(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Nearly U V^T of the singular value decomposition U S V^T: singular values between 0.7 and 1.2.

    Singular values below a thousandth of the matrix's norm end smaller. In bfloat16 on CUDA, otherwise in the matrix's
    own precision.
    """
    x = matrix.to(torch.bfloat16) if matrix.is_cuda else matrix
    x = x.mT if x.shape[0] > x.shape[1] else x
    x = x / x.norm().clamp(min=SMALLEST_NORM)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.mT if matrix.shape[0] > matrix.shape[1] else x
    return x.to(matrix.dtype)


class Muon(torch.optim.AdamW):
    """AdamW for all parameters but `hidden`, which take Muon's steps with Nesterov momentum.

    Args:
        groups: as AdamW's; rate and decoupled weight decay of a group are those of its hidden matrices, too.
        hidden: matrices, and of how many each is the rows, such as 3 for queries, keys and values of one product: each
            moves on its own. A kernel of a convolution is a matrix with a row per output channel.
        rate: the rate of groups without one.
        betas: AdamW's.
        scale: the rate of hidden matrices in units of that of all else.
    """

    # A scaler of fp16 gradients then leaves a step out that is not finite, rather than telling the optimiser.
    _step_supports_amp_scaling = False

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        hidden: Mapping[nn.Parameter, int],
        rate: float,
        betas: tuple[float, float],
        scale: float = 1.0,
    ) -> None:
        super().__init__(groups, lr=rate, betas=betas)
        self._hidden, self._scale = dict(hidden), scale

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step. Gradients of hidden matrices are None afterwards: AdamW leaves such parameters alone."""
        assert closure is None, "the loss is not evaluated again"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self._hidden and parameter.grad is not None:
                    self._move(parameter, self._scale * group["lr"], group["weight_decay"])
                    parameter.grad = None
        return super().step()

    def _move(self, parameter: nn.Parameter, rate: float, decay: float) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:  # with the count of steps that AdamW expects of each parameter
            state |= {"momentum": torch.zeros_like(parameter), "step": torch.zeros(())}
        state["step"] += 1
        momentum = state["momentum"]
        momentum.lerp_(parameter.grad, 1 - MOMENTUM)
        ahead = parameter.grad.lerp(momentum, MOMENTUM).flatten(1).chunk(self._hidden[parameter])
        size = RMS * math.sqrt(max(ahead[0].shape))
        parameter.mul_(1 - rate * decay)
        direction = torch.cat([orthogonalised(matrix) for matrix in ahead])
        parameter.add_(direction.view_as(parameter), alpha=-rate * size)
