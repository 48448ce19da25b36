"""Every artifact spec by name: what `vqpipe artifacts show` looks a header up in."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from vqpipe.artifacts import specs
from vqpipe.artifacts.spec import FolderSpec, Header, Spec, TableSpec, TensorSpec


@cache
def all_specs() -> dict[str, Spec]:
    """The specs of all rooms by name, sorted.

    A spec is whatever `Spec` object a module of `vqpipe.artifacts.specs` holds. Two different specs of one
    name are our own bug.
    """
    found: dict[str, Spec] = {}
    for module in sorted(item.name for item in iter_modules(specs.__path__)):
        content = vars(import_module(f"{specs.__name__}.{module}"))
        for value in content.values():
            if isinstance(value, TableSpec | TensorSpec | FolderSpec):
                assert found.setdefault(value.name, value) == value, f"two specs are called {value.name}"
    return dict(sorted(found.items()))


def spec_of(header: Header) -> Spec | None:
    """The current spec that a header names, or None for a name this version of vqpipe does not know."""
    return all_specs().get(header.spec)
