"""The pictures of the task `captioning`: test images with what was generated for them."""

from vqpipe.artifacts.spec import TableSpec

CAPTIONING_PICTURES = TableSpec(
    "task-captioning", 1,
    {
        "head": "string", "image_id": "string", "picture": "binary", "caption": "string", "cider_d": "double",
        "other_caption": "string", "other_cider_d": "double", "references": "list<string>",
    },
    stage="task",
    about="`caption`, generated from the image's own input, and `other_caption`, from another image's, with their "
    "CIDEr-D against the image's captions, `references`; PNG",
)  # fmt: skip
