"""Moved."""

# shim: moved
import sys

from vqpipe.report.boards.board import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.report.boards.board"]
