"""Moved."""

# shim: moved
import sys

from vqpipe.cli.presets import *  # noqa: F403

sys.modules[__name__] = sys.modules["vqpipe.cli.presets"]
