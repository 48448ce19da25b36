"""Moved."""

# shim: moved
import sys

from vqpipe.report.boards.row import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.report.boards.row"]
