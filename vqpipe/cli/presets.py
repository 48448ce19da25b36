"""Presets: whole params files by name, for the embedded run, the papers' scales and one's own data.

`scenes.yaml` states every section. Any other preset states what differs from its base:

    base: scenes
    description: one line
    replace: [tokenizer.variants]      # optional: these mappings are replaced, not merged
    dataset: {…}

A mapping whose `kind` differs from the base's is replaced whole, since the fields of one kind mean nothing
to another.

`SECTIONS` states which model reads which section of a params file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, SingleQuotedScalarString

from vqpipe.cli.preset_comments import Comment, commented, comments, without_overridden
from vqpipe.errors import ParamsError, did_you_mean
from vqpipe.params.base import field_types, merged, validate
from vqpipe.params.bounded_yaml import parse_yaml
from vqpipe.params.names import NAMED, check_names
from vqpipe.params.plugins import Table

KEYWORDS = ("base", "description", "replace")
"""Top-level keys of a preset file that are not params sections."""
PLAIN = re.compile(r"(?!(?i:true|false|null|yes|no|on|off|y|n)$)[A-Za-z/][A-Za-z0-9_./+-]*")
"""Text that every YAML parser reads as text without quotes."""


def preset_folder() -> Traversable:
    """The folder of preset files inside the package."""
    return files("vqpipe") / "presets"


def preset_names(folder: Traversable | None = None) -> list[str]:
    """The names of all presets, sorted."""
    where = folder or preset_folder()
    if not where.is_dir():
        return []
    return sorted(item.name.removesuffix(".yaml") for item in where.iterdir() if item.name.endswith(".yaml"))


def describe(name: str, folder: Traversable | None = None) -> str:
    """A preset's one-line description: its `description`, or the first sentence of its opening comment."""
    text, data = _read(name, folder or preset_folder())
    if "description" in data:
        return str(data["description"])
    opening = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    sentence = " ".join(opening).split(". ")[0].rstrip(".")
    return f"{sentence}." if sentence else ""


def preset_text(name: str, overrides: Sequence[str] = (), folder: Traversable | None = None) -> str:
    """The params file of a preset as YAML 1.2 text. A comment is there with the value that it was written for, and not
    where a preset or an override replaced that.

    Args:
        name: a name from `preset_names`.
        overrides: `dotted.key=value` for a key that is there, `+dotted.key=value` for a new one. The value of a text
            field is taken as it is (`null` where the field may be null); any other is YAML.
        folder: where the preset files are, by default inside the package.

    Raises:
        ParamsError: an unknown preset or key, a value that is not YAML or not valid, or bases that form a cycle.
    """
    where = folder or preset_folder()
    text, content = _read(name, where)
    if not overrides and not any(key in content for key in KEYWORDS):
        return text
    merged, known, opening = _merged(name, where, ())
    before = deepcopy(merged) if overrides else merged
    paths = [_assign(merged, override, name) for override in overrides]
    touched = dict.fromkeys(path[0] for path in paths)
    mistake = first_mistake(merged, touched, f"preset {name} with --set")
    if mistake is not None and first_mistake(before, touched, name) is None:
        raise mistake
    about = content.get("description")
    title = f"# Preset {name}{f': {about}' if about else ''}".rstrip(".") + "."
    lines = [title, *opening] if "base" in content else _head(text)
    head = "".join(f"{line}\n" for line in lines)
    return head + commented(merged, without_overridden(known, paths), _yaml())


def _head(text: str) -> list[str]:
    """The comments before the first section of a preset's file."""
    head = itertools.takewhile(
        lambda line: line.startswith("#") or line.split(":")[0] in KEYWORDS, text.splitlines()
    )
    return [line for line in head if line.startswith("#")]


def load_preset(
    name: str, overrides: Sequence[str] = (), folder: Traversable | None = None
) -> dict[str, Any]:
    """A preset's sections as plain data; arguments and errors as `preset_text`."""
    loaded = parse_yaml(preset_text(name, overrides, folder), f"preset {name}")
    return {key: value for key, value in loaded.items() if key not in KEYWORDS}


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    return yaml


def _read(name: str, folder: Traversable) -> tuple[str, CommentedMap]:
    known = preset_names(folder)
    if name not in known:
        raise ParamsError(f"there is no preset {name}{did_you_mean(name, known)}", choices=known)
    text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    content = parse_yaml(text, f"preset {name}", yaml=_yaml())
    if not isinstance(content, CommentedMap):
        raise ParamsError(
            f"preset {name} is not a mapping", found=type(content).__name__, expected="sections"
        )
    return text, _without_aliases(content, set())


def _without_aliases(node: Any, seen: set[int]) -> Any:
    """The same content with a copy wherever YAML's `*name` repeats a block, so that a change in one is not in both."""
    if isinstance(node, (CommentedMap, CommentedSeq)):
        if id(node) in seen:
            node = deepcopy(node)
        seen.add(id(node))
        node.yaml_set_anchor(None)
        for key in node if isinstance(node, CommentedMap) else range(len(node)):
            node[key] = _without_aliases(node[key], seen)
    return node


def _merged(
    name: str, folder: Traversable, chain: tuple[str, ...]
) -> tuple[CommentedMap, dict[tuple[str, ...], Comment], list[str]]:
    """A preset merged over its bases: its sections, the comments that stay true, and those before the first section of
    each file but the last base's, which are about another run."""
    if name in chain:
        raise ParamsError("the bases of presets form a cycle", found=" -> ".join([*chain, name]))
    text, content = _read(name, folder)
    base, replaced, own = content.get("base"), content.get("replace", []), comments(text, content)
    for key in KEYWORDS:
        content.pop(key, None)
    opening = {*KEYWORDS, *(str(key) for key in itertools.islice(content, 1))}
    own = {path: about for path, about in own.items() if len(path) > 1 or path[0] not in opening}
    if base is None:
        return content, own, []
    merged, known, lines = _merged(str(base), folder, (*chain, name))
    paths = list[tuple[str, ...]]()
    _merge(merged, content, {str(path) for path in replaced}, (), paths)
    return merged, without_overridden(known, paths) | own, [*_head(text), *lines]


def _merge(
    into: CommentedMap, changes: Mapping[str, Any], replaced: set[str], prefix: tuple[str, ...],
    paths: list[tuple[str, ...]],
) -> None:  # fmt: skip
    """Merge changes, and add the path of every value that they replace to `paths`."""
    for key, value in changes.items():
        path = (*prefix, str(key))
        old = into.get(key)
        both = isinstance(old, CommentedMap) and isinstance(value, Mapping)
        other_kind = both and "kind" in value and value["kind"] != old.get("kind")
        if both and not other_kind and ".".join(path) not in replaced:
            _merge(old, value, replaced, path, paths)
        else:
            if key in into and into[key] != value:
                paths.append(path)
            into[key] = value


def _assign(params: CommentedMap, override: str, preset: str) -> tuple[str, ...]:
    """Set one key; returns its path."""
    path, separator, text = override.partition("=")
    if not separator or not path.strip("+"):
        raise ParamsError("an override sets one key", found=override, expected="dotted.key=value")
    is_new = path.startswith("+")
    keys = path.removeprefix("+").split(".")
    node: Any = params
    for depth, key in enumerate(keys):
        is_last = depth == len(keys) - 1
        if not isinstance(node, CommentedMap) or (key not in node and not (is_last and is_new)):
            known = [str(k) for k in node] if isinstance(node, CommentedMap) else []
            raise ParamsError(
                f"preset {preset} has no key {'.'.join(keys[: depth + 1])}{did_you_mean(key, known)}",
                found=override, choices=known or None,
                run=f"--set '+{'.'.join(keys)}={text}' adds a new key" if is_last and known else None,
            )  # fmt: skip
        if not is_last:
            node = node[key]
    node[keys[-1]] = _value(text, types_at(params, keys), path)
    return tuple(keys)


def _value(text: str, types: set[str], path: str) -> Any:
    """The value of an override, for a field of these JSON types."""
    if "string" in types and types <= {"string", "null"}:
        if "null" in types and text in ("null", "~"):
            return None
        # In quotes where any YAML parser may read something else; DVC's does so with a colon within braces.
        if not text.isprintable():
            return DoubleQuotedScalarString(text)
        return text if PLAIN.fullmatch(text) else SingleQuotedScalarString(text)
    return parse_yaml(text, f"the value of {path}", yaml=_yaml())


SECTIONS = {
    "dataset": "vqpipe.data.build:DatasetParams",
    "corpus": "vqpipe.data.corpus:CorpusParams",
    "clip": "vqpipe.training.clip:ClipParams",
    "vocabulary": "vqpipe.text.vocabulary:VocabularyParams",
    "graph": "vqpipe.text.graph:GraphParams",
    "patches": "vqpipe.vision.patches:PatchesParams",
    "cluster": "vqpipe.vision.cluster:ClusterParams",
    "tokenizer": "vqpipe.tokenizers.tokenizer:TokenizerParams",
    "tokens": "vqpipe.tokenizers.tokens:TokensParams",
    "judges": "vqpipe.evaluation.judges:JudgeParams",
    "prior": "vqpipe.priors:PRIORS",
    "evaluate": "vqpipe.evaluation.measure:EvaluateParams",
    "task": "vqpipe.tasks:TASKS",
    "report": "vqpipe.report.inputs:ReportParams",
}
"""The params model of every section, or its table of plug-ins. It is imported when it is needed: many import torch.

The model of a section in `NAMED` is that of its entries, each of which is read with `common` below it (`entry`).
"""


def _loaded(section: str) -> Any:
    module, name = SECTIONS[section].split(":")
    return getattr(import_module(module), name)


def model_of(section: str) -> Any:
    """The params model of a section, or of its entries."""
    found = _loaded(section)
    return found.params() if isinstance(found, Table) else found


def entry(section: str, common: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """What a stage reads for a named entry of a section in `NAMED`."""
    found = _loaded(section)
    if isinstance(found, Table):
        return found.entry(f"{section}.{NAMED[section]}", common, own)
    return merged(common, own)


def types_at(params: Mapping[str, Any], keys: Sequence[str]) -> set[str]:
    """The JSON types of the field at dotted keys of a params file, such as {"string", "null"}; empty where unknown."""
    head = keys[0]
    if head not in SECTIONS:
        return set()
    model = model_of(head)
    if head not in NAMED:
        return field_types(model, keys[1:], params.get(head))
    if len(keys) < 2:
        return set()
    section = params.get(head, {})
    if keys[1] == "common":
        common, inside = section.get("common", {}), keys[2:]
        kinds = _loaded(head)  # `common` has a block for each kind too
        is_kind = len(inside) > 1 and isinstance(kinds, Table) and inside[0] in kinds
        if is_kind and isinstance(common.get(inside[0], {}), Mapping):
            return field_types(model, inside[1:], {**common.get(inside[0], {}), "kind": inside[0]})
        return field_types(model, inside, common)
    if keys[1] != NAMED[head] or len(keys) < 3:
        return set()
    own = section.get(NAMED[head], {}).get(keys[2], {})
    try:
        return field_types(model, keys[3:], entry(head, section.get("common", {}), own))
    except ParamsError:
        return set()  # the entry is not whole yet; it is checked when all is set


def first_mistake(params: Mapping[str, Any], names: Iterable[str], source: str) -> ParamsError | None:
    """What is wrong with the first of some sections that the stages would not accept; None where they accept all.

    Args:
        params: a whole params file as plain data.
        names: sections of it; those that no stage reads are skipped.
        source: what the message calls the file.
    """
    try:
        check_names(params, source)
        for name in names:
            if name not in SECTIONS:
                continue
            model, section = model_of(name), params[name]
            if name not in NAMED:
                validate(section, name, model, source)
            else:
                entries = NAMED[name]
                if not isinstance(section, Mapping) or not isinstance(section.get(entries, {}), Mapping):
                    return ParamsError(
                        f"{source}: {name} is not a block of fields", expected=f"common, {entries}"
                    )
                for key, own in section.get(entries, {}).items():
                    whole = entry(name, section.get("common", {}), own)
                    validate(whole, f"{name}.{entries}.{key}", model, source)
    except ParamsError as mistake:
        return mistake
    return None
