"""Moved."""

# shim: moved
import sys
import vqpipe.metrics.measured
from vqpipe.metrics.measured import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.metrics.measured"]
