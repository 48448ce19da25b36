"""Moved."""
# shim: moved
import sys

from vqpipe.artifacts.specs.codebooks import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.artifacts.specs.codebooks"]
