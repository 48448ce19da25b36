"""The pictures of the task `grounding`: expressions with the boxes that they refer to and those that were found."""

from vqpipe.artifacts.spec import TableSpec

GROUNDING_PICTURES = TableSpec(
    "task-grounding", 1,
    {
        "head": "string", "image_id": "string", "picture": "binary", "expression": "string", "box": "list<double>",
        "predicted": "list<double>", "iou": "double",
    },
    stage="task",
    about="an expression, the box of its object and the one that a head found (left, top, right and bottom as shares "
    "of the image's side), and their intersection over union; PNG",
)  # fmt: skip
