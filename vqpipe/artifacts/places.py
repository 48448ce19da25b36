"""Moved."""

# shim: moved
import sys

from vqpipe.artifacts.inputs_outputs import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.artifacts.inputs_outputs"]
