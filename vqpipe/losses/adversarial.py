"""Moved."""

# shim: moved
import sys
import vqpipe.models.losses
from vqpipe.models.losses import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.models.losses"]
