"""The pictures of the task `vqa`; the rest of its artifact is as every task's (`specs/task.py`)."""

from vqpipe.artifacts.spec import TableSpec

VQA_PICTURES = TableSpec(
    "task-vqa", 1,
    {
        "head": "string", "image_id": "string", "picture": "binary", "questions": "list<string>",
        "kinds": "list<string>", "answers": "list<string>", "predictions": "list<string>", "chances": "list<double>",
        "others": "list<string>", "right": "list<bool>",
    },
    stage="task",
    about="test images and what is asked about each: the questions with their kinds and true answers, the likeliest "
    "answer with its probability and whether it is right, and in `others` the answer with the codes of another image; "
    "PNG",
)  # fmt: skip
