"""Moved."""
# shim: moved
import sys
import vqpipe.models.trunk
from vqpipe.models.trunk import *  # noqa: F403
sys.modules[__name__] = sys.modules["vqpipe.models.trunk"]
