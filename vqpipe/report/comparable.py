"""Moved."""

# shim: moved
import sys

from vqpipe.report.gate import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.report.gate"]
