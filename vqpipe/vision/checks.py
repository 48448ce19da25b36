"""Moved."""

# shim: moved
import sys

from vqpipe.vision.vectors import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.vision.vectors"]
