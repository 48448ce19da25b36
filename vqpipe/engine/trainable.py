"""Moved."""

# shim: moved
import sys
import vqpipe.training.objective
from vqpipe.training.objective import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.training.objective"]
