"""`metrics.json` beside the page: the numbers of all stages, under the names that gates use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqpipe.report.inputs import Inputs


def summary(inputs: Inputs) -> dict[str, Any]:
    """Numbers only, sorted: `tokenizer.VARIANT`, `prior.PAIR`, `read.VARIANT`, and one entry for each other stage.

    A tokenizer's measures (mean of `{mean, low, high}`) lie beside its `training` metrics; floors and
    ceilings keep their names. What is no number is left out, the stages' protocols too.
    """
    content: dict[str, Any] = {name: numbers(metrics) for name, metrics in inputs.stages.items()}
    tokenizers = {}
    for name in inputs.variants:
        own: dict[str, Any] = {}
        if name in inputs.evaluate:
            own |= numbers({k: v for k, v in inputs.evaluate[name].items() if k != "protocol"})
        if name in inputs.tokenizer:
            own["training"] = numbers(inputs.tokenizer[name])
        if own:
            tokenizers[name] = own
    content["tokenizer"] = tokenizers
    content["prior"] = {name: numbers(metrics) for name, metrics in inputs.prior.items()}
    content["read"] = {
        name: numbers({k: v for k, v in metrics.items() if k != "protocol"})
        for name, metrics in inputs.read.items()
    }
    return {key: content[key] for key in sorted(content)}


def numbers(content: Mapping[str, Any]) -> dict[str, Any]:
    """Nested numbers without the rest; `{mean, low, high}` becomes its mean."""
    kept: dict[str, Any] = {}
    for key, value in sorted(content.items()):
        if isinstance(value, Mapping):
            inner = value["mean"] if set(value) == {"mean", "low", "high"} else numbers(value)
            if inner != {}:
                kept[key] = inner
        elif isinstance(value, int | float) and not isinstance(value, bool):
            kept[key] = value
    return kept
