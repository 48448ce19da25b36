"""Moved."""

# shim: moved
import sys

from vqpipe.report.task_pairs import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.report.task_pairs"]
