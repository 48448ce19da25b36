"""Moved."""

# shim: moved
import sys

from vqpipe.runtime.device import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.runtime.device"]
