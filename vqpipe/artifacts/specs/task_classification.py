"""The pictures of the task `classification`; the rest of its artifact is as every task's (`specs/task.py`)."""

from vqpipe.artifacts.spec import TableSpec

CLASSIFICATION_PICTURES = TableSpec(
    "task-classification", 1,
    {
        "head": "string", "image_id": "string", "picture": "binary", "label": "string", "predictions": "list<string>",
        "chances": "list<double>", "right": "list<bool>",
    },
    stage="task",
    about="test images, the name of their class, and the likeliest classes with their probabilities, best first; "
    "`right` says which of them is the class; PNG",
)  # fmt: skip
