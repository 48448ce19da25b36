"""Moved."""

# shim: moved
import sys
import vqpipe.text.counting
from vqpipe.text.counting import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.text.counting"]
