"""Moved."""
# shim: moved
import sys

from vqpipe.codebooks.search import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.codebooks.search"]
