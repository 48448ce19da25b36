"""Moved."""
# shim: moved
