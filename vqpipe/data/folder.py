"""Moved."""

# shim: moved
import sys

from vqpipe.data.stream import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.data.stream"]
