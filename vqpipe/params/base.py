"""The base model of every params section and the loader that turns a mistake into a readable message."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from vqpipe.errors import ParamsError, did_you_mean, printable
from vqpipe.params.bounded_yaml import PARAMS, Limits, parse_yaml, read_text
from vqpipe.params.names import check_names


class Params(BaseModel):
    """Frozen and strict; unknown fields are refused. Attribute docstrings serve as the fields' documentation."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def is_multiple(field: str, of: str) -> Any:
    """A validator for the body of a `Params`: the field `field` must be a multiple of the field `of`."""

    def check(params: Params) -> Params:
        value, part = getattr(params, field), getattr(params, of)
        if value % part:
            raise ValueError(f"{field} {value} is not a multiple of {of} {part}")
        return params

    return model_validator(mode="after")(check)


P = TypeVar("P")


MAX_MISTAKES = 7
"""Mistakes of one section that a message explains; the others are counted."""
MAX_SHOWN = 200
"""Characters of a wrong value that a message shows."""


def read_yaml(path: Path, limits: Limits = PARAMS) -> dict[str, Any]:
    """Read a YAML 1.2 mapping (`1e-4` is a number there, a string in YAML 1.1).

    Raises:
        ParamsError: the file is missing, is not YAML, contains more than `limits` allow, or is not a mapping.
    """
    if not path.is_file():
        raise ParamsError(f"params file {path} does not exist", run="vqpipe preset scenes --out params.yaml")
    data = deepcopy(_parsed(read_text(path, limits), f"params file {path}", limits))
    if not isinstance(data, dict):
        raise ParamsError(
            f"params file {path} is not a mapping", found=type(data).__name__, expected="sections"
        )
    return data


@lru_cache(maxsize=4)
def _parsed(text: str, source: str, limits: Limits) -> Any:
    """The content of a text that a command reads several times; parsing `params.yaml` takes a tenth of a second."""
    return parse_yaml(text, source, limits)


def section_of(data: dict[str, Any], section: str, path: Path) -> Any:
    """Return the value at a dotted section name.

    Raises:
        ParamsError: the section is not there; the message lists what is.
    """

    node, keys = data, section.split(".")
    while keys:
        parts = range(len(keys), 0, -1)  # a name may have dots itself
        taken = next((n for n in parts if isinstance(node, dict) and ".".join(keys[:n]) in node), None)
        if taken is None:
            known = [str(k) for k in node] if isinstance(node, dict) else []
            raise ParamsError(
                f"{path.name}: there is no section {section}{did_you_mean(keys[0], known)}",
                found=keys[0],
                choices=known,
            )
        node, keys = node[".".join(keys[:taken])], keys[taken:]
    return node


def load_params(path: Path, section: str, model: type[P]) -> P:
    """Validate one section of a params file.

    Args:
        path: the params file.
        section: dotted name of the section, such as `tokenizer.variants.vq`.
        model: a `Params` subclass, or a union of them discriminated on `kind`.

    Raises:
        ParamsError: every mistake in the section, each with its dotted name and the nearest valid field; or an entry
            of any section with a name that cannot be a file's.
    """
    data = read_yaml(path)
    check_names(data, path.name)
    return validate(section_of(data, section, path), section, model, path.name)


def merged(base: Any, over: Any) -> Any:
    """Deep merge of plain data: mappings merge key by key, anything else is replaced.

    A mapping with another `kind` than the one below it replaces it whole, since its fields are others.
    """
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if "kind" in over and base.get("kind", over["kind"]) != over["kind"]:
        return over
    return {
        **base,
        **{key: merged(base[key], value) if key in base else value for key, value in over.items()},
    }


def load_merged(path: Path, common: str, section: str, model: type[P]) -> P:
    """Validate the section `common` with `section` merged over it; errors as `load_params`, named by `section`."""
    data = read_yaml(path)
    check_names(data, path.name)
    whole = merged(section_of(data, common, path), section_of(data, section, path))
    return validate(whole, section, model, path.name)


def validate(value: Any, section: str, model: type[P], source: str = "params.yaml") -> P:
    """Validate plain data as `model`; see `load_params`."""
    adapter: TypeAdapter[P] = TypeAdapter(model)
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParamsError(f"{source}: {section} has a value that JSON cannot represent: {error}") from error
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        lines = [_explain(item, section, model) for item in mistakes[:MAX_MISTAKES]]
        if len(mistakes) > MAX_MISTAKES:
            lines.append(f"{section} has {len(mistakes) - MAX_MISTAKES:,} more mistakes")
        raise ParamsError((f"{source}: " + f"\n{source}: ".join(lines)).split("\n")) from None


def field_types(model: Any, keys: Sequence[str], value: Any) -> set[str]:
    """The JSON types that a field may have, such as {"string", "null"}; empty where there is no such field.

    Args:
        model: as for `load_params`.
        keys: the field's dotted name within the section, split.
        value: the section's content; its `kind`s say which of several blocks a field is in.
    """
    schema = TypeAdapter(model).json_schema()
    nodes = [schema]
    for key in keys:
        options = [option for node in nodes for option in _options(schema, node)]
        kind = value.get("kind") if isinstance(value, Mapping) else None
        own = [option for option in options if _has_kind(option, kind)]
        nodes = [child for option in own or options for child in _children(schema, option, key)]
        value = value.get(key) if isinstance(value, Mapping) else None
    return {str(option.get("type")) for node in nodes for option in _options(schema, node)}


def _has_kind(option: dict[str, Any], kind: Any) -> bool:
    stated = option.get("properties", {}).get("kind", {})
    return kind is not None and kind in (stated.get("const"), *stated.get("enum", []))


def _explain(item: Any, section: str, model: Any) -> str:
    where = printable(_cut(".".join([section, *_without_tags(model, item["loc"])])))
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        choices = f"\n  choices:  {', '.join(known)}" if known else ""
        return f"{where} is not a field{did_you_mean(_cut(str(item['loc'][-1])), known)}{choices}"
    if item["type"] == "union_tag_invalid":
        known, kind = _kinds_at(model, item["loc"]), str(item["ctx"]["tag"])
        found = f"\n  found:    {_cut(repr(kind))}\n  choices:  {', '.join(known)}"
        return f"{where}.kind: there is no such kind{did_you_mean(_cut(kind), known)}{found}"
    if item["type"] == "union_tag_not_found":
        return f"{where}.kind is missing\n  choices:  {', '.join(_kinds_at(model, item['loc']))}"
    if item["type"] == "literal_error":
        known, value = re.findall(r"'([^']*)'", item["ctx"]["expected"]), item["input"]
        near = did_you_mean(_cut(value), known) if isinstance(value, str) else ""
        found = f"\n  found:    {_cut(repr(value))}\n  choices:  {', '.join(known)}"
        return f"{where} is none of its values{near}{found}" if known else f"{where}: {item['msg']}{found}"
    if item["type"] == "missing":
        return f"{where} is missing"
    found = "" if isinstance(item.get("input"), dict) else f"\n  found:    {_cut(repr(item.get('input')))}"
    if item["type"] in _NO_BLOCK:
        kinds, fields = _kinds_at(model, item["loc"]), _fields_at(model, item["loc"])
        inside = f"kind: {' | '.join(kinds)}, …" if kinds else ", ".join(fields)
        expected = f"\n  expected: {{{inside}}}" if inside else ""
        return f"{where} is not a block of fields{found}{expected}"
    return f"{where}: {printable(_cut(item['msg'].removeprefix('Value error, '), 1000))}{found}"


def _cut(text: str, most: int = MAX_SHOWN) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}… ({len(text):,} characters)"


_NO_BLOCK = {"model_type", "model_attributes_type", "dict_type"}


def _without_tags(model: Any, loc: tuple[Any, ...]) -> list[str]:
    """An error's location as the user wrote it: without the `kind` that a discriminated union adds."""
    schema = TypeAdapter(model).json_schema()
    nodes, shown = [schema], []
    for part in loc:
        options = [option for node in nodes for option in _options(schema, node)]
        written = any(part in option.get("properties", {}) for option in options)
        tags = [option.get("properties", {}).get("kind", {}).get("const") for option in options]
        if written or part not in tags:
            shown.append(str(part))
        nodes = [child for node in nodes for child in _children(schema, node, part)]
    return shown


def _fields_at(model: Any, loc: tuple[Any, ...]) -> list[str]:
    """The field names at an error's location, found in the model's JSON schema."""
    return list(
        dict.fromkeys(name for option in _options_at(model, loc) for name in option.get("properties", {}))
    )


def _kinds_at(model: Any, loc: tuple[Any, ...]) -> list[str]:
    """The values that `kind` may have at an error's location, where a union of blocks is expected."""
    kinds = [option.get("properties", {}).get("kind", {}).get("const") for option in _options_at(model, loc)]
    return [kind for kind in kinds if kind is not None]


def _options_at(model: Any, loc: tuple[Any, ...]) -> list[dict[str, Any]]:
    schema = TypeAdapter(model).json_schema()
    nodes = [schema]
    for part in loc:
        nodes = [child for node in nodes for child in _children(schema, node, part)]
    return [option for node in nodes for option in _options(schema, node)]


def _options(root: dict[str, Any], node: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in node:
        return _options(root, root["$defs"][node["$ref"].rsplit("/", 1)[-1]])
    nested = [*node.get("anyOf", []), *node.get("oneOf", []), *node.get("allOf", [])]
    if nested:
        return [option for child in nested for option in _options(root, child)]
    return [node]


def _children(root: dict[str, Any], node: dict[str, Any], part: Any) -> list[dict[str, Any]]:
    found = []
    for option in _options(root, node):
        properties = option.get("properties", {})
        if part in properties:
            found.append(properties[part])
        elif properties.get("kind", {}).get("const") == part:
            found.append(option)  # a discriminated union adds its tag to the location
        elif isinstance(part, int) and "items" in option:
            found.append(option["items"])
        elif isinstance(option.get("additionalProperties"), dict):
            found.append(option["additionalProperties"])
    return found
