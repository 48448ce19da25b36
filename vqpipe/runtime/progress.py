"""Moved."""

# shim: moved
import sys

from vqpipe.runtime.terminal import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.runtime.terminal"]
