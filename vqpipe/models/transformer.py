"""What networks with transformer blocks share: GPT-2's initialisation, which weights decay, and which are inside."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def init_gpt(module: nn.Module) -> None:
    """GPT-2's initialisation, for `nn.Module.apply`: weights N(0, 0.02), biases 0, norms 1 and 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
    if isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
        nn.init.zeros_(module.bias)


class StackedLinear(nn.Linear):
    """Several linear layers with one input, as one product.

    Args:
        inputs: channels of the input.
        outputs: channels of all outputs together.
        parts: how many layers, of equally many outputs each.
        bias: whether there is one.
    """

    def __init__(self, inputs: int, outputs: int, parts: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self.parts = parts


WITH_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers whose weights decay in a network with convolutions."""


def _matrices(module: nn.Module, layers: tuple[type[nn.Module], ...]) -> list[nn.Parameter]:
    """The matrices of layers and of attention."""
    return [
        parameter
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if (name == "weight" and isinstance(part, layers)) or name == "in_proj_weight"
    ]


def hidden_matrices(modules: Iterable[nn.Module]) -> dict[nn.Parameter, int]:
    """The trained matrices of the layers of `modules`, kernels of convolutions among them, for Muon: of how many
    matrices each is the rows."""
    found: dict[nn.Parameter, int] = {}
    for module in modules:
        stacked = {
            id(part.weight): part.parts for part in module.modules() if isinstance(part, StackedLinear)
        }
        stacked |= {id(p): 3 for name, p in module.named_parameters() if name.endswith("in_proj_weight")}
        found |= {p: stacked.get(id(p), 1) for p in _matrices(module, WITH_CONVOLUTIONS) if p.requires_grad}
    return found


def decay_groups(
    module: nn.Module, layers: tuple[type[nn.Module], ...] = (nn.Linear,)
) -> list[dict[str, object]]:
    """Parameter groups for AdamW: decay on the matrices of layers and of attention, none on biases, norms, codes,
    embeddings and other vectors. A weight under spectral norm, whose length has no effect, does not decay.

    Args:
        module: its trained parameters are grouped; both groups keep their order.
        layers: classes of the layers whose `weight` decays, by default linear ones.
    """
    decaying = set(map(id, _matrices(module, layers)))
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decaying]},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]
