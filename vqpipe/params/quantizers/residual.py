"""Moved."""
# shim: moved
import sys
import vqpipe.quantizers.residual
from vqpipe.quantizers.residual import *
sys.modules[__name__] = sys.modules["vqpipe.quantizers.residual"]
