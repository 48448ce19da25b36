"""Moved."""

# shim: moved
import sys

from vqpipe.data.scenes.shapes import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.data.scenes.shapes"]
