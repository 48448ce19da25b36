"""What a row was made from, by recipe: equal on every machine, so that a board can be continued on another one.

A CLIP or codebook that is fitted again with the same params on the same data has other last digits on another kind of
processor, and so another digest. Rows are distinguished by how their inputs are made instead: stage and params of each
artifact, and of those that it was made from, down to data that are equal byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vqpipe.artifacts.lineage import read_lineage
from vqpipe.artifacts.publish import short_digest, tree_digest

FORMER: Mapping[str, Mapping[str, Any]] = {"patches": {"max_bad_fraction": 0.01}}
"""Params that a stage no longer has and that changed nothing that it made, with the value that the rows were made with:
recipes still have them, so that no row is run again."""


def recipe(path: Path) -> str | dict[str, Any]:
    """How an artifact is made: stage, params and the recipes of the artifacts that it was made from, by their kind.

    The SHA-256 of the content instead where it was made from no artifact, as a data set or a vocabulary; where it has
    no lineage, as an imported codebook; and where it is not what its lineage says, or was replaced since.

    Raises:
        ArtifactError: a lineage that is damaged.
    """
    content, lineage = tree_digest(path), read_lineage(path)
    if lineage is None or not lineage.specs or lineage.output != content:
        return content
    made_from = []
    for source, digest in lineage.inputs.items():
        there = Path(source).exists() and tree_digest(Path(source)) == digest
        made_from.append([lineage.specs.get(source, ""), recipe(Path(source)) if there else digest])
    return {
        "stage": lineage.stage,
        "params": {**FORMER.get(lineage.stage, {}), **lineage.params},
        "inputs": sorted(made_from, key=lambda one: json.dumps(one, sort_keys=True)),
    }


def given(
    stage: str,
    identity: Mapping[str, Any],
    inputs: Sequence[Path],
    recipe_of: Callable[[Path], str | dict[str, Any]] = recipe,
) -> str:
    """16 hexadecimal digits that name what a row is made from: a row whose metrics have others is run again.

    Args:
        stage: `row` or `generation`.
        identity: what the board's params say of the row; see `Board.identity`.
        inputs: in the order in which the stage states them.
        recipe_of: `recipe`, or one that remembers: the rows of a board share their inputs.

    Raises:
        ArtifactError: the lineage of an input is damaged.
    """
    content = {"stage": stage, "params": identity, "inputs": [recipe_of(path) for path in inputs]}
    return short_digest(content)
