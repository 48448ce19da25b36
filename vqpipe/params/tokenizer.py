"""Moved."""
# shim: moved
import sys
import vqpipe.tokenizers.tokenizer
from vqpipe.tokenizers.tokenizer import *  # noqa: F403
sys.modules[__name__] = sys.modules["vqpipe.tokenizers.tokenizer"]
