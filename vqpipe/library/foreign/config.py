"""The YAML config of a foreign checkpoint. Every field must be known: one that is not may change the codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqpipe.errors import ParamsError, did_you_mean
from vqpipe.library.foreign.contract import Family
from vqpipe.params.base import Params, read_yaml, section_of, validate

FORMS = {"target": "params", "class_path": "init_args"}
"""How a config names the class, and its arguments: OmegaConf's form, LightningCLI's."""
MODEL_FIELDS = (*FORMS, *FORMS.values(), "base_learning_rate", "learning_rate")
"""Fields of `model`."""
CONFIG_SECTIONS = (
    "model", "data", "dataset", "lightning", "trainer", "seed_everything", "ckpt_path", "logger", "callbacks",
    "optimizer", "lr_scheduler",
)  # fmt: skip
"""Sections of the file; all but `model` are about the training."""
SHOWN = 6


@dataclass(frozen=True)
class ForeignConfig:
    """What a config says of the network."""

    layout: str
    """The family's name in the table."""
    family: Family
    params: Params
    """Of the family's `Config`."""


def read_config(path: Path, families: Mapping[str, Family], layout: str | None = None) -> ForeignConfig:
    """What a config says of the network.

    Args:
        path: the YAML file.
        families: all of them, by name.
        layout: the family of a class whose name is not in the table.

    Raises:
        ParamsError: no such file, no `model.params`, a class or a field that is not known, an interpolation, a value
            that cannot be followed here, or a layout that contradicts the class.
    """
    if not path.is_file():
        raise ParamsError(f"{path} is not a file", expected="the YAML config of the checkpoint")
    if layout is not None and layout not in families:
        raise ParamsError("there is no such layout", found=layout, choices=sorted(families))
    data = read_yaml(path)
    name = layout if layout is not None and "model" not in data else _flat(data, families)
    if name is not None:
        section, params = "", data
    else:
        model = _mapping(section_of(data, "model", path), "model", path)
        form = _form(model, path)
        name = _family(model.get(form), model, families, layout, path)
        _check_fields(data, CONFIG_SECTIONS, "", path)
        _check_fields(model, MODEL_FIELDS, "model.", path)
        section = f"model.{FORMS[form]}"
        params = _mapping(section_of(data, section, path), section, path)
    family, prefix = families[name], f"{section}." if section else ""
    known = family.Config.model_fields
    _check_fields(params, (*known, *family.training), prefix, path)
    named = {field: params[field] for field in known if field in params}
    for where, text in _interpolations(named, section):
        raise ParamsError(
            f"{path.name}: {where} is an interpolation, which vqpipe import does not resolve", found=text,
            expected="the value itself",
        )  # fmt: skip
    if isinstance(named.get("ddconfig"), dict):
        named["ddconfig"] = {k: v for k, v in named["ddconfig"].items() if k not in family.training_trunk}
    return ForeignConfig(name, family, validate(named, section or "config", family.Config, path.name))


def _flat(data: Mapping[str, Any], families: Mapping[str, Family]) -> str | None:
    """The family whose config is the fields alone, where all fields of the file are its own."""
    for name, family in families.items():
        if family.flat and data and set(data) <= {*family.Config.model_fields, *family.training}:
            return name
    return None


def _form(model: Mapping[str, Any], path: Path) -> str:
    found = [form for form in FORMS if form in model]
    given = [args for args in FORMS.values() if args in model]
    if len(found) > 1 or len(given) > 1:
        raise ParamsError(
            f"{path.name}: model names its class or its arguments twice",
            found=", ".join(found + given), expected="target and params, or class_path and init_args",
        )  # fmt: skip
    return found[0] if found else "target"


def _family(
    target: Any, model: Mapping[str, Any], families: Mapping[str, Family], layout: str | None, path: Path
) -> str:
    if layout is not None and target in families[layout].reads:
        return layout
    known = next((name for name, family in families.items() if target in family.targets), None)
    if known is not None and layout not in (None, known):
        raise ParamsError(
            f"{path.name}: the class model.target is of another layout than --layout says",
            found=f"{target}, which is {known}", expected=f"--layout {known}, or no --layout",
        )  # fmt: skip
    if known is not None or layout is not None:
        return str(known or layout)
    params = model.get("params")
    nested = isinstance(params, dict) and "first_stage_config" in params
    raise ParamsError(
        f"{path.name}: vqpipe import does not know the class model.target, which may choose its codes in another way",
        found="no target" if target is None else target,
        choices=[name for family in families.values() for name in family.targets],
        expected="the config of the first stage alone: what is under model.params.first_stage_config, as `model`"
        if nested else None,
        run=f"vqpipe import … --layout {'|'.join(families)}, where the class computes the same as one of these",
    )  # fmt: skip


def _mapping(value: Any, name: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ParamsError(
            f"{path.name}: {name} is not a mapping", found=type(value).__name__,
            expected="model: {target: CLASS, params: {embed_dim: …, n_embed: …, ddconfig: {…}}}",
        )  # fmt: skip
    return value


def _check_fields(section: Mapping[str, Any], known: tuple[str, ...], prefix: str, path: Path) -> None:
    unknown = [str(name) for name in section if name not in known]
    if unknown:
        names = ", ".join(f"{prefix}{name}" for name in unknown)
        hint = did_you_mean(unknown[0], known) if len(unknown) == 1 else ""
        raise ParamsError(
            f"{path.name}: vqpipe import does not know {names}, which may change what the network computes{hint}",
            found=some([f"{name}: {section[name]!r}"[:80] for name in section if str(name) in unknown]),
            choices=sorted(known),
        )


def _interpolations(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _interpolations(part, f"{where}.{name}")
    elif isinstance(value, list):
        for at, part in enumerate(value):
            yield from _interpolations(part, f"{where}.{at}")
    elif isinstance(value, str) and "${" in value:
        yield where, value


def some(items: list[str], joint: str = ", ") -> str:
    """The first of many items, and how many more there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return joint.join(items[:SHOWN]) + more
