"""Moved."""

# shim: moved
import sys

from vqpipe.data.text_files import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.data.text_files"]
