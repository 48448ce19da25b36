"""Moved."""

# shim: moved
import sys
import vqpipe.text.phrases
from vqpipe.text.phrases import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.text.phrases"]
