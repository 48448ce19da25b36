"""Moved."""

# shim: moved
import sys
import vqpipe.text.graph
from vqpipe.text.graph import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.text.graph"]
