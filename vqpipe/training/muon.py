"""Muon: the matrices inside a network move by the orthogonal matrix next to their momentum, all else by AdamW.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). Steps have the root mean square of
AdamW's, 0.2 in units of the rate (Liu et al., arXiv 2502.16982, section 2.2), so that one rate can serve both.

`torch.optim.Muon` takes the same steps. It is not used, since it computes in bfloat16, for which a CPU without such
instructions takes 16 times as long as for float32, and since it takes matrices alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
AT_ONCE = {"cuda": 1 << 26, "cpu": 1}
"""Elements of the matrices of one shape that are orthogonalised as one batch: on a GPU many, which saves launches; on a
CPU one matrix at a time, which takes 0.65 to 0.95 of a batch's processor time."""


def orthogonalised(matrices: Float[Tensor, "*k m n"]) -> Float[Tensor, "*k m n"]:
    """Nearly U V^T of the singular value decomposition U S V^T of each: singular values between 0.7 and 1.2.

    Singular values below a thousandth of the matrix's norm end smaller. In bfloat16 on CUDA, otherwise in the matrices'
    own precision.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.to(torch.bfloat16) if matrices.is_cuda else matrices
    x = (x.mT if tall else x).reshape(-1, *sorted(matrices.shape[-2:]))
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=SMALLEST_NORM)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrices.shape).to(matrices.dtype)


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
            alike: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter in self._hidden and parameter.grad is not None:
                    rows, columns = parameter.flatten(1).shape
                    alike[rows // self._hidden[parameter], columns].append(parameter)
            for shape, own in alike.items():
                self._move(own, shape, self._scale * group["lr"], group["weight_decay"])
        return super().step()

    def _move(
        self, parameters: Sequence[nn.Parameter], shape: tuple[int, int], rate: float, decay: float
    ) -> None:
        """Move parameters that are made of matrices of one shape."""
        for parameter in parameters:
            state = self.state[parameter]
            if not state:  # with the count of steps that AdamW expects of each parameter
                state |= {"momentum": torch.zeros_like(parameter), "step": torch.zeros(())}
            state["step"] += 1
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        matrices = [part.reshape(-1, *shape) for part in ahead]
        at_once = AT_ONCE["cpu" if parameters[0].device.type == "cpu" else "cuda"]
        size = max(1, at_once // math.prod(shape))
        moved = torch.cat([orthogonalised(part) for part in torch.split(torch.cat(matrices), size)])
        directions = [
            own.view_as(parameter)
            for own, parameter in zip(
                torch.split(moved, [len(own) for own in matrices]), parameters, strict=True
            )
        ]
        values: list[Tensor] = [*parameters]
        torch._foreach_mul_(values, 1 - rate * decay)
        torch._foreach_add_(values, directions, alpha=-rate * RMS * math.sqrt(max(shape)))
        for parameter in parameters:
            parameter.grad = None
