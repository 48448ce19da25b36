"""Moved."""

# shim: moved
import sys

from vqpipe.text.english import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.text.english"]
