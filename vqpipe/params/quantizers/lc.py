"""Moved."""
# shim: moved
import sys

from vqpipe.quantizers.lc import *

sys.modules[__name__] = sys.modules["vqpipe.quantizers.lc"]
