"""The recipes of every file `tests/recipes*.py`, so that a new quantizer is covered by tests that loop over all."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, TypeVar

import torch

from tests.recipes import Recipe
from tests.tiny import TOKENIZER
from vqpipe.codebooks.words import Words
from vqpipe.params.base import validate
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.quantizers import build
from vqpipe.tokenizers.tokenizer import Tokenizer

T = TypeVar("T", bound=Tokenizer)


def every_recipe() -> dict[str, Recipe]:
    """Recipes by `kind-variant`."""
    found: dict[str, Recipe] = {}
    for item in iter_modules([str(Path(__file__).parent)]):
        if item.name.startswith("recipes"):
            for value in vars(import_module(f"tests.{item.name}")).values():
                for kind, own in value.items() if isinstance(value, dict) else ():
                    for name, recipe in own.items() if isinstance(own, dict) else ():
                        if isinstance(recipe, Recipe):
                            found[f"{kind}-{name}"] = recipe
    return dict(sorted(found.items()))


def make_tokenizer(recipe: Recipe, cls: type[T] = Tokenizer, **changes: Any) -> T:  # type: ignore[assignment]
    """A tiny tokenizer of a recipe in eval mode, initialised from data where the recipe asks for it."""
    prior = "none" if recipe.prior is None else "words" if isinstance(recipe.prior, Words) else "patches"
    section = {**TOKENIZER, "quantizer": recipe.params, "prior": prior, **changes}
    config = validate(section, "tokenizer", TokenizerParams)
    torch.manual_seed(0)
    tokenizer = cls(config, build(config.quantizer, recipe.prior))
    side = config.resolution
    tokenizer.train()(torch.rand(8, 3, side, side) * 2 - 1)
    return tokenizer.eval().requires_grad_(False)
