"""Moved."""
# shim: moved
from vqpipe.cli.tokenizers import export

__all__ = ["export"]
