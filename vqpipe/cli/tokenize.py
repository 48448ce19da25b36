"""Moved."""
# shim: moved
from vqpipe.cli.tokenizers import detokenize, tokenize

__all__ = ["detokenize", "tokenize"]
