"""Moved."""

# shim: moved
import sys

from vqpipe.report.build import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.report.build"]
