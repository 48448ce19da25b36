"""Moved."""

# shim: moved
import sys

from vqpipe.artifacts.checkpoints import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.artifacts.checkpoints"]
