"""Moved."""

# shim: moved
import sys
import vqpipe.evaluation.codes
from vqpipe.evaluation.codes import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.evaluation.codes"]
