"""Moved."""

# shim: moved
import sys

from vqpipe.artifacts.remedies import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.artifacts.remedies"]
