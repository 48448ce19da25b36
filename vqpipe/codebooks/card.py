"""Moved."""
# shim: moved
from vqpipe.library.cards import codebook_card as card  # noqa: F401

__all__ = ["card"]
