"""The trained tokenizer, and the codebook of a variant that needs no pretrained one."""

from vqpipe.artifacts.spec import FolderSpec, TensorSpec

WEIGHTS = TensorSpec(
    "tokenizer-weights", 2, {}, stage="tokenizer", open=True,
    about="encoder, quantizer (with its frozen codebook) and decoder",
)  # fmt: skip

ALIGNER_WEIGHTS = TensorSpec(
    "aligner-weights", 3, {}, stage="tokenizer", open=True,
    about="the transformer over the codes, the losses' own networks, and the corpus's frozen token embeddings",
)  # fmt: skip

TOKENIZER = FolderSpec(
    "tokenizer", 2, stage="tokenizer", required=("model.safetensors",),
    about="facts: params, resolution, names of the codes, and whether the weights are averaged (ema) or the last; "
    "aligner.safetensors where it was trained with align",
)  # fmt: skip

NO_CODEBOOK = FolderSpec(
    "no-codebook", 1, stage="tokenizer", about="the codebook of a variant that needs no pretrained one"
)
