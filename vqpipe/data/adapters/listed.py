"""Moved."""

# shim: moved
import sys

from vqpipe.data.adapters.listings import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.data.adapters.listings"]
