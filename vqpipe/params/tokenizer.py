"""Moved."""
# shim: moved
import sys

from vqpipe.tokenizers.tokenizer import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.tokenizers.tokenizer"]
