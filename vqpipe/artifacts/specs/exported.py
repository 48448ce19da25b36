"""What the tools around a tokenizer write: ONNX graphs, and images made from tokens."""

from vqpipe.artifacts.spec import FolderSpec

ONNX = FolderSpec(
    "onnx", 1, stage="vqpipe export", required=("encoder.onnx", "decoder.onnx"),
    about="facts: opset, the graphs' inputs and outputs, resolution, grid, groups, num_codes, tokenizer",
)  # fmt: skip

DECODED = FolderSpec(
    "decoded-images", 1, stage="vqpipe detokenize",
    about="one PNG per row of a tokens file, named by its id; facts: images, tokenizer",
)  # fmt: skip
