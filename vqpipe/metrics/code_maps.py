"""Moved."""

# shim: moved
import sys

from vqpipe.metrics.codes import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.metrics.codes"]
