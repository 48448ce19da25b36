"""The trained tokenizer, and the prior that a variant without a prior reads."""

from vqpipe.artifacts.spec import FolderSpec, TensorSpec

WEIGHTS = TensorSpec(
    "tokenizer-weights", 1, {}, stage="tokenizer", open=True,
    about="encoder, quantizer (with its frozen prior) and decoder",
)  # fmt: skip

TOKENIZER = FolderSpec(
    "tokenizer", 1, stage="tokenizer", required=("model.safetensors",),
    about="facts: params, resolution, names of the codes, and whether the weights are averaged (ema) or the last",
)  # fmt: skip

NO_PRIOR = FolderSpec(
    "no-prior", 1, stage="tokenizer", about="stands where a variant that learns its codes needs no prior"
)
