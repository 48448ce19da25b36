"""Moved."""

# shim: moved
import sys

from vqpipe.data.scenes.layout import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.data.scenes.layout"]
