"""Generators over a tokenizer's tokens: `loss(batch, condition)` and `sample(condition, n, generator, …)`."""
