"""Moved."""

# shim: moved
import sys

from vqpipe.data.structured_files import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.data.structured_files"]
