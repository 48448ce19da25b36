"""Moved."""

# shim: moved
import sys

from vqpipe.quantizers.contract import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.quantizers.contract"]
