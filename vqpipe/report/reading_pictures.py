"""Moved."""

# shim: moved
import sys

from vqpipe.report.about_tasks import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.report.about_tasks"]
