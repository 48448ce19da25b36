"""Moved."""
# shim: moved
import sys
import vqpipe.evaluation.measure
from vqpipe.evaluation.measure import *  # noqa: F403
sys.modules[__name__] = sys.modules["vqpipe.evaluation.measure"]
