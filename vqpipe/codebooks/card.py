"""Moved."""
# shim: moved
from vqpipe.library.cards import codebook_card as card

__all__ = ["card"]
