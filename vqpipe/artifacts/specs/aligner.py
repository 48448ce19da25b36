"""What was trained beside an aligned tokenizer and is no part of it."""

from vqpipe.artifacts.spec import FolderSpec, OneOf, TensorSpec

ALIGNER_WEIGHTS = TensorSpec(
    "aligner-weights", 1, {}, stage="tokenizer", open=True,
    about="the transformer over the codes, the losses' own networks, and the corpus's frozen token embeddings",
)  # fmt: skip

ALIGNER = FolderSpec(
    "aligner", 1, stage="tokenizer", required=("model.safetensors",),
    about="facts: the align params, shapes, the CLIP, the digest of the tokenizer it was trained with, ema or last",
)  # fmt: skip

NO_ALIGNER = FolderSpec(
    "no-aligner", 1, stage="tokenizer", about="stands where a variant was trained without alignment"
)
ANY_ALIGNER = OneOf("aligner", (ALIGNER, NO_ALIGNER))
