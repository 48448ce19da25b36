"""Moved."""

# shim: moved
import sys

from vqpipe.quantizers.soft import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.quantizers.soft"]
