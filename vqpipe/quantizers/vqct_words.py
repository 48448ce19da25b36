"""Moved."""

# shim: moved
import sys
import vqpipe.quantizers.vqct
from vqpipe.quantizers.vqct import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.quantizers.vqct"]
