"""Moved."""
# shim: moved
from vqpipe.cli.tokenizers import import_vqgan

__all__ = ["import_vqgan"]
