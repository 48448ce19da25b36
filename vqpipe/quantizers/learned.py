"""Moved."""

# shim: moved
import sys
import vqpipe.quantizers.nearest
from vqpipe.quantizers.nearest import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.quantizers.nearest"]
