"""Moved."""

# shim: moved
import sys

from vqpipe.evaluation.reconstructions import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.evaluation.reconstructions"]
