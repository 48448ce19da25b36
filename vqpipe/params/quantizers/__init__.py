"""Moved."""
# shim: moved
from vqpipe.quantizers import AnyQuantizer

QuantizerParams = AnyQuantizer
