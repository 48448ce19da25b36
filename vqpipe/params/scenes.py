"""Moved."""
# shim: moved
from vqpipe.data.adapters.scenes import ScenesSource  # noqa: F401
