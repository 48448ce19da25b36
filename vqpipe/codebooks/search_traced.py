"""Moved."""
# shim: moved
import sys
import vqpipe.codebooks.search
from vqpipe.codebooks.search import *  # noqa: F403
sys.modules[__name__] = sys.modules["vqpipe.codebooks.search"]
