"""Moved."""
# shim: moved
import sys

from vqpipe.vision.patches import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.vision.patches"]
