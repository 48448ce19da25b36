"""Moved."""

# shim: moved
import sys

from vqpipe.report.about_health import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.report.about_health"]
