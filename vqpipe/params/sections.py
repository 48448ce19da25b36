"""Which model reads which section of a params file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vqpipe.errors import ParamsError
from vqpipe.params.base import field_types, merged, validate
from vqpipe.params.clip import ClipParams
from vqpipe.params.cluster import ClusterParams
from vqpipe.params.corpus import CorpusParams
from vqpipe.params.dataset import DatasetParams
from vqpipe.params.evaluate import EvaluateParams
from vqpipe.params.graph import GraphParams
from vqpipe.params.names import check_names
from vqpipe.params.patches import PatchesParams
from vqpipe.params.prior import PriorParams
from vqpipe.params.report import ReportParams
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.params.tokens import TokensParams
from vqpipe.params.vocabulary import VocabularyParams
from vqpipe.tasks import TASKS
from vqpipe.tasks.task import task_entry

SECTIONS: dict[str, Any] = {
    "dataset": DatasetParams,
    "corpus": CorpusParams,
    "clip": ClipParams,
    "vocabulary": VocabularyParams,
    "graph": GraphParams,
    "patches": PatchesParams,
    "cluster": ClusterParams,
    "tokens": TokensParams,
    "evaluate": EvaluateParams,
    "report": ReportParams,
}
"""Sections that are read as they are."""
GROUPS: dict[str, tuple[str, Any]] = {
    "tokenizer": ("variants", TokenizerParams),
    "prior": ("pairs", PriorParams),
    "task": ("pairs", TASKS.params()),
}
"""Sections of `common` and of named entries, each of which is read with `common` below it (`entry`)."""


def entry(section: str, common: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """What a stage reads for a named entry of a group; in `task`, `common` has a block per kind too."""
    return task_entry(common, own) if section == "task" else merged(common, own)


def types_at(params: Mapping[str, Any], keys: Sequence[str]) -> set[str]:
    """The JSON types of the field at dotted keys of a params file, such as {"string", "null"}; empty where unknown."""
    head = keys[0]
    if head in SECTIONS:
        return field_types(SECTIONS[head], keys[1:], params.get(head))
    if head not in GROUPS or len(keys) < 2:
        return set()
    entries, model = GROUPS[head]
    section = params.get(head, {})
    if keys[1] == "common":
        common, inside = section.get("common", {}), keys[2:]
        if head == "task" and inside and inside[0] in TASKS:
            return field_types(model, inside[1:], {**common.get(inside[0], {}), "kind": inside[0]})
        return field_types(model, inside, common)
    if keys[1] != entries or len(keys) < 3:
        return set()
    own = section.get(entries, {}).get(keys[2], {})
    return field_types(model, keys[3:], entry(head, section.get("common", {}), own))


def first_mistake(params: Mapping[str, Any], names: Iterable[str], source: str) -> ParamsError | None:
    """What is wrong with the first of some sections that the stages would not accept; None where they accept all.

    Args:
        params: a whole params file as plain data.
        names: sections of it; those that no stage reads are passed over.
        source: what the message calls the file.
    """
    try:
        check_names(params, source)
        for name in names:
            if name in SECTIONS:
                validate(params[name], name, SECTIONS[name], source)
            elif name in GROUPS:
                entries, model = GROUPS[name]
                section = params[name]
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
