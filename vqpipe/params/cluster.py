"""Moved."""
# shim: moved
import sys

from vqpipe.vision.cluster import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.vision.cluster"]
