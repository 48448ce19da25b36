"""Moved."""
# shim: moved
import sys

from vqpipe.models.trunk import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.models.trunk"]
