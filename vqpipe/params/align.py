"""Moved."""
# shim: moved
import sys
import vqpipe.alignment.aligner
from vqpipe.alignment.aligner import *  # noqa: F403
sys.modules[__name__] = sys.modules["vqpipe.alignment.aligner"]
