"""Moved."""

# shim: moved
import sys

from vqpipe.library.hub import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.library.hub"]
