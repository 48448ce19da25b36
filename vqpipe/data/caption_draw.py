"""Moved."""
# shim: moved
import sys
import vqpipe.tokenizers.captions
from vqpipe.tokenizers.captions import *  # noqa: F403
sys.modules[__name__] = sys.modules["vqpipe.tokenizers.captions"]
