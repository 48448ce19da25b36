"""Moved."""

# shim: moved
import sys

from vqpipe.data.records import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.data.records"]
