"""Moved."""

# shim: moved
import sys

from vqpipe.library.tokens import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.library.tokens"]
