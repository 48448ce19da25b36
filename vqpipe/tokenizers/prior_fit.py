"""Moved."""

# shim: moved
import sys

from vqpipe.tokenizers.train import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.tokenizers.train"]
