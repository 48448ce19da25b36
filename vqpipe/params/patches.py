"""Moved."""
# shim: moved
import sys
import vqpipe.vision.patches
from vqpipe.vision.patches import *  # noqa: F403
sys.modules[__name__] = sys.modules["vqpipe.vision.patches"]
