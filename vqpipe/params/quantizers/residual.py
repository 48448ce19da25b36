"""Moved."""
# shim: moved
import sys

from vqpipe.quantizers.residual import *

sys.modules[__name__] = sys.modules["vqpipe.quantizers.residual"]
