"""Moved."""

# shim: moved
import sys

from vqpipe.alignment.text import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.alignment.text"]
