"""Moved."""

# shim: moved
import sys
import vqpipe.training.loop
from vqpipe.training.loop import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.training.loop"]
