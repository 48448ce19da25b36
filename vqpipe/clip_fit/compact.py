"""The byte-pair tokens that a corpus uses, and a CLIP that holds these alone while it is fitted.

CLIP's table has 49,408 rows; an optimiser that visits all of them spends most of its time on rows that no
caption ever touches. The published model has the full table: rows of unseen tokens keep their initial values.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vqpipe.vision.towers import build_model

TABLE = "token_embedding.weight"


def used_tokens(ids: Int[Tensor, "n t"]) -> Int[Tensor, "v"]:
    """The distinct token ids of a corpus, rising; the end token, the largest id of all, stays last."""
    return torch.unique(ids)


def compact_ids(ids: Int[Tensor, "n t"], used: Int[Tensor, "v"]) -> Int[Tensor, "n t"]:
    """Positions of the ids in `used`."""
    return torch.searchsorted(used, ids)


def compact_model(full: nn.Module, model_cfg: Mapping[str, Any], used: Int[Tensor, "v"]) -> nn.Module:
    """A copy of `full` whose token table holds the rows `used` alone."""
    config = copy.deepcopy(dict(model_cfg))
    config["text_cfg"]["vocab_size"] = len(used)
    model = build_model(config, "compact")
    weights = full.state_dict()
    model.load_state_dict({**weights, TABLE: weights[TABLE][used]})
    return model


def restore(full: nn.Module, weights: Mapping[str, Tensor], used: Int[Tensor, "v"]) -> None:
    """Put the weights of a compact model back into the full one."""
    table = full.state_dict()[TABLE].clone()
    table[used] = weights[TABLE].to(table)
    full.load_state_dict({**weights, TABLE: table})
