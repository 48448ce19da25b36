"""Moved."""
# shim: moved
import sys

from vqpipe.models.perceptual import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.models.perceptual"]
