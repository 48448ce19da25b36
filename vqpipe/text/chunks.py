"""Moved."""

# shim: moved
import sys

from vqpipe.text.counting import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.text.counting"]
