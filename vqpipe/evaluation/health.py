"""Moved."""

# shim: moved
import sys

from vqpipe.evaluation.codes import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.evaluation.codes"]
