"""The task artifact: a head on frozen tokens, and the results of heads on them, image by image and as pictures.

`head` is `fresh` (trained on the frozen tokens) or `own` (trained together with the tokenizer). The tables
of pictures are in `pictures.parquet`; each task has its own columns.
"""

from vqpipe.artifacts.spec import FolderSpec, TableSpec, TensorSpec

TASK_PER_IMAGE = TableSpec(
    "task-per-image", 1,
    {"head": "string", "measure": "string", "image_id": "string", "value": "double"},
    stage="task", about="each measure's value of each test image that has one; measures are named as in the metrics",
)  # fmt: skip

MASKED_WORDS_PICTURES = TableSpec(
    "task-masked-words", 1,
    {
        "head": "string", "count": "int32", "image_id": "string", "picture": "binary", "caption": "string",
        "masked": "string", "words": "list<string>", "predictions": "list<list<string>>",
        "chances": "list<list<double>>", "right": "list<bool>",
    },
    stage="task",
    about="masked words of test captions: `masked`, the caption without them; each word, its best predictions "
    "with their probabilities, and whether the first is right; PNG",
)  # fmt: skip

RETRIEVAL_PICTURES = TableSpec(
    "task-retrieval", 1,
    {
        "head": "string", "direction": "string", "image_id": "string", "picture": "binary", "caption": "string",
        "captions": "list<string>", "image_ids": "list<string>", "pictures": "list<binary>", "scores": "list<double>",
        "right": "list<bool>",
    },
    stage="task",
    about="direction image_to_text: an image and its best captions; text_to_image: a caption and its best images; "
    "with cosines; PNG",
)  # fmt: skip

RELATIONS_PICTURES = TableSpec(
    "task-relations", 1,
    {
        "head": "string", "image_id": "string", "picture": "binary", "caption": "string", "words": "list<string>",
        "positions": "list<int32>", "codes": "list<list<int32>>", "word_cosines": "list<list<double>>",
        "code_cosines": "list<list<double>>", "projected_cosines": "list<list<double>>",
    },
    stage="task",
    about="a caption's words, the position and the codes (one per group) assigned to each, and the cosines of "
    "words, of code vectors and of projected ones (null without a projection); PNG",
)  # fmt: skip

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

HEAD_WEIGHTS = TensorSpec(
    "task_head", 1, {}, stage="task", open=True,
    about="weights of a fresh head, and `view.centroids` where it saw k-means codes of raw patches; facts: params, "
    "known (words, answers or classes that it is built from), view, space, wanted (K at the tokenizer's bits), "
    "resolution, tokenizer (its kind and digest), clip",
)  # fmt: skip

TASK = FolderSpec(
    "task", 2, stage="task", required=("head.safetensors", "per_image.parquet"),
    about="facts: kind, split, num_images, grid, groups, heads (which heads were measured: fresh, own)",
)  # fmt: skip
