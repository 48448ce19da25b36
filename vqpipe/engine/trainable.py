"""Moved."""

# shim: moved
import sys

from vqpipe.training.objective import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.training.objective"]
