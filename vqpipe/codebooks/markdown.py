"""Moved."""
# shim: moved
from vqpipe.library.cards import escape, table, value

__all__ = ["escape", "table", "value"]
