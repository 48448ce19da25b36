"""Moved."""

# shim: moved
import sys

from vqpipe.training.step import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.training.step"]
