"""Moved."""
# shim: moved
import sys

from vqpipe.tokenizers.captions import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.tokenizers.captions"]
