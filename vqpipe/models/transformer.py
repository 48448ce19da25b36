"""What networks with transformer blocks share: GPT-2's initialisation, and which weights decay."""

from __future__ import annotations

from torch import nn


def init_gpt(module: nn.Module) -> None:
    """GPT-2's initialisation, for `nn.Module.apply`: weights N(0, 0.02), biases 0, norms 1 and 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
    if isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
        nn.init.zeros_(module.bias)


WITH_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers whose weights decay in a network with convolutions."""


def decay_groups(
    module: nn.Module, layers: tuple[type[nn.Module], ...] = (nn.Linear,)
) -> list[dict[str, object]]:
    """Parameter groups for AdamW: decay on the matrices of layers and of attention, none on biases, norms, codes,
    embeddings and other vectors. A weight under spectral norm, whose length has no effect, does not decay.

    Args:
        module: its trained parameters are grouped; both groups keep their order.
        layers: classes of the layers whose `weight` decays, by default linear ones.
    """
    decaying = {
        id(parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if (name == "weight" and isinstance(part, layers)) or name == "in_proj_weight"
    }
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decaying]},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]
