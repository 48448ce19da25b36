"""The recipes of all files, gathered once, for the tests that loop over every quantizer."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from tests.recipes import RECIPES, Recipe, merged
from tests.recipes_nearest import NEAREST
from tests.recipes_priors import PRIORS
from tests.recipes_soft import SOFT
from tests.tiny import TOKENIZER
from vqpipe.codebooks.words import Words
from vqpipe.params.base import validate
from vqpipe.quantizers import build
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams

T = TypeVar("T", bound=Tokenizer)

ALL = merged(RECIPES, SOFT, NEAREST, PRIORS)
"""Recipes by kind and by name."""


def every_recipe() -> dict[str, Recipe]:
    """Recipes by `kind-name`."""
    return dict(
        sorted((f"{kind}-{name}", recipe) for kind, own in ALL.items() for name, recipe in own.items())
    )


def make_tokenizer(recipe: Recipe, cls: type[T] = Tokenizer, **changes: Any) -> T:  # type: ignore[assignment]
    """A tiny tokenizer of a recipe in eval mode, initialised from data where the recipe asks for it."""
    codebook = "none" if recipe.prior is None else "words" if isinstance(recipe.prior, Words) else "patches"
    section = {**TOKENIZER, "quantizer": recipe.params, "codebook": codebook, **changes}
    config = validate(section, "tokenizer", TokenizerParams)
    torch.manual_seed(0)
    tokenizer = cls(config, build(config.quantizer, recipe.prior))
    side = config.resolution
    tokenizer.train()(torch.rand(8, 3, side, side) * 2 - 1)
    return tokenizer.eval().requires_grad_(False)
