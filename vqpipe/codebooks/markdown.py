"""Moved."""
# shim: moved
from vqpipe.library.cards import escape, value  # noqa: F401
from vqpipe.library.cards import table as _table


def table(columns, rows):  # type: ignore[no-untyped-def]
    return _table(columns, rows).splitlines()
