"""Moved."""
# shim: moved
import sys

from vqpipe.clip_fit import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.clip_fit"]
