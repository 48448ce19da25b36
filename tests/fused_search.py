"""Moved."""
# shim: moved
import sys
import tests.searches
from tests.searches import *  # noqa: F403
sys.modules[__name__] = sys.modules["tests.searches"]
