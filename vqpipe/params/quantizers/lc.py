"""Moved."""
# shim: moved
import sys
import vqpipe.quantizers.lc
from vqpipe.quantizers.lc import *
sys.modules[__name__] = sys.modules["vqpipe.quantizers.lc"]
