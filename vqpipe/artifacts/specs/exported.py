"""What the tools around tokenizers and priors write: ONNX graphs, images made from tokens, priors to share."""

from vqpipe.artifacts.spec import FolderSpec

ONNX = FolderSpec(
    "onnx", 1, stage="vqpipe export", required=("encoder.onnx", "decoder.onnx"),
    about="facts: opset, the graphs' inputs and outputs, resolution, grid, groups, num_codes, tokenizer",
)  # fmt: skip

DECODED = FolderSpec(
    "decoded-images", 1, stage="vqpipe detokenize",
    about="one PNG per row of a tokens file, named by its id; facts: images, tokenizer",
)  # fmt: skip

EXPORTED_PRIOR = FolderSpec(
    "exported-prior", 1, stage="vqpipe export",
    required=(
        "README.md", "config.json", "model.safetensors", "tokenizer/config.json", "tokenizer/model.safetensors",
    ),
    about="a prior with all that it needs to make pictures: its tokenizer, and in clip/ the text encoder of a prior of "
    "texts; facts: those of the weights",
)  # fmt: skip
