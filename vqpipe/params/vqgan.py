"""Moved."""
# shim: moved
import sys

from vqpipe.library.vqgan import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.library.vqgan"]
