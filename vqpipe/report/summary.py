"""`metrics.json` beside the page: the metrics of all stages, under the names that gates use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqpipe.report.inputs import Inputs


def summary(inputs: Inputs) -> dict[str, Any]:
    """Numbers and text, sorted: `tokenizer.VARIANT`, `prior.PAIR`, `read.VARIANT`, and one entry for each other stage.

    A tokenizer's measures (mean of `{mean, low, high}`) lie beside its `training` metrics; floors and
    ceilings keep their names. Lists are left out, and so are the stages' protocols, since `measured` has them.
    """
    content: dict[str, Any] = {name: values(metrics) for name, metrics in inputs.stages.items()}
    tokenizers = {}
    for name in inputs.variants:
        own: dict[str, Any] = {}
        if name in inputs.evaluate:
            own |= values({k: v for k, v in inputs.evaluate[name].items() if k != "protocol"})
        if name in inputs.tokenizer:
            own["training"] = values(inputs.tokenizer[name])
        if own:
            tokenizers[name] = own
    content["tokenizer"] = tokenizers
    content["prior"] = {name: values(metrics) for name, metrics in inputs.prior.items()}
    content["read"] = {
        name: values({k: v for k, v in metrics.items() if k != "protocol"})
        for name, metrics in inputs.read.items()
    }
    return {key: content[key] for key in sorted(content)}


def values(content: Mapping[str, Any]) -> dict[str, Any]:
    """Nested numbers and text without the rest; `{mean, low, high}` becomes its mean."""
    kept: dict[str, Any] = {}
    for key, value in sorted(content.items()):
        if isinstance(value, Mapping):
            inner = value["mean"] if set(value) == {"mean", "low", "high"} else values(value)
            if inner != {}:
                kept[key] = inner
        elif isinstance(value, int | float | str) and not isinstance(value, bool):
            kept[key] = value
    return kept
