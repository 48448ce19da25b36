"""Moved."""

# shim: moved
import sys

from vqpipe.training.loop import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.training.loop"]
