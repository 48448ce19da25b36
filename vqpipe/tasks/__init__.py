"""Tasks: what is solved from a tokenizer's frozen tokens, one file each.

To add one: a file with its params and its class (`vqpipe.tasks.task.Task`), and a line in `TASKS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vqpipe.params.plugins import Table

if TYPE_CHECKING:
    from vqpipe.tasks.task import Task

TASKS: Table[Task] = Table(
    "task",
    {
        "masked_words": "vqpipe.tasks.masked_words:MaskedWords",
        "retrieval": "vqpipe.tasks.retrieval:Retrieval",
        "grounding": "vqpipe.tasks.grounding:Grounding",
        "relations": "vqpipe.tasks.relations:WordRelations",
        "classification": "vqpipe.tasks.classification:Classification",
        "vqa": "vqpipe.tasks.vqa:Vqa",
        "captioning": "vqpipe.tasks.captioning:Captioning",
    },
)
"""Every task by the `kind` of its params."""
