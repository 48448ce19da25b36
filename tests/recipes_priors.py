"""Moved."""
# shim: moved
import sys
import tests.recipes
from tests.recipes import *  # noqa: F403
sys.modules[__name__] = sys.modules["tests.recipes"]
