"""Moved."""

# shim: moved
import sys
import vqpipe.training.checkpoint
from vqpipe.training.checkpoint import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.training.checkpoint"]
