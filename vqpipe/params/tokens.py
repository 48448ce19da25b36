"""Moved."""
# shim: moved
import sys
import vqpipe.tokenizers.tokens
from vqpipe.tokenizers.tokens import *  # noqa: F403
sys.modules[__name__] = sys.modules["vqpipe.tokenizers.tokens"]
