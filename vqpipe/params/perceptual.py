"""Moved."""
# shim: moved
import sys
import vqpipe.models.perceptual
from vqpipe.models.perceptual import *  # noqa: F403
sys.modules[__name__] = sys.modules["vqpipe.models.perceptual"]
