"""Moved."""

# shim: moved
import sys

from vqpipe.tokenizers.stored import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.tokenizers.stored"]
