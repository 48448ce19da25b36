"""The CLIP artifact: an open_clip config and its weights, self-contained."""

from vqpipe.artifacts.spec import FolderSpec, TensorSpec

CLIP_WEIGHTS = TensorSpec(
    "clip-weights", 1, {}, stage="clip", open=True,
    about="the state of an open_clip model; float tensors are F32",
)  # fmt: skip

CLIP = FolderSpec(
    "clip", 1, stage="clip", required=("config.json", "model.safetensors"),
    about="config.json: an open_clip config (model_cfg, preprocess_cfg); facts: id, image_size, embed_dim",
)  # fmt: skip
