"""Moved."""

# shim: moved
import sys

from vqpipe.models.losses import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.models.losses"]
