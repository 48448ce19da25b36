"""Moved."""
# shim: moved
import sys

from vqpipe.alignment.aligner import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.alignment.aligner"]
