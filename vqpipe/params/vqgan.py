"""Moved."""
# shim: moved
import sys
import vqpipe.library.vqgan
from vqpipe.library.vqgan import *  # noqa: F403
sys.modules[__name__] = sys.modules["vqpipe.library.vqgan"]
