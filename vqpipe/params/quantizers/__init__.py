"""Moved."""
# shim: moved
from vqpipe.quantizers import AnyQuantizer as QuantizerParams  # noqa: F401
