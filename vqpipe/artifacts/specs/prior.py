"""The prior artifact: a trained prior over tokens or latents, and its samples."""

from vqpipe.artifacts.spec import FolderSpec, TableSpec, TensorSpec

PRIOR_WEIGHTS = TensorSpec(
    "prior_weights", 4, {}, stage="prior", open=True,
    about="weights of a prior; facts: params, num_codes, grid, groups, classes, num_classes (0 unless conditioned on "
    "them), latent_channels, latent_std, resolution, map_classes, text_length, text_dim, averaged, made_with (the "
    "tokenizer's quantizer and digest, the text encoder's id)",
)  # fmt: skip

SAMPLES = TableSpec(
    "samples", 2,
    {
        "image": "binary", "label": "int32", "label_name": "string", "caption": "string", "label_map": "binary",
        "indices": "list<int32>",
    },
    stage="prior",
    about="samples as PNG with the class, the text or the map (PNG, class + 1, 0 for none) they were conditioned on; "
    "indices flattened from (g, h, w)",
)  # fmt: skip

NEAREST = TableSpec(
    "nearest", 1,
    {
        "sample": "binary", "train": "binary", "train_id": "string", "rmse": "double", "same_codes": "double",
    },
    stage="prior",
    about="samples with the training image nearest in pixels; rmse in [0, 255]; "
    "same_codes: the largest part of codes that any training image shares",
)  # fmt: skip

COMPLETIONS = TableSpec(
    "completions", 1,
    {
        "image_id": "string", "hole": "string", "mask": "binary", "original": "binary", "reconstruction": "binary",
        "completions": "list<binary>", "label": "int32", "label_name": "string", "caption": "string",
    },
    stage="prior",
    about="test images whose tokens inside a hole were drawn several times, the others known; mask: 255 inside the "
    "hole; label and caption as far as the prior was given them; PNG; there only for priors that take known tokens",
)  # fmt: skip

PRIOR = FolderSpec(
    "prior", 1, stage="prior",
    required=("model.safetensors", "samples.png", "unigram.png", "samples.parquet", "nearest.parquet"),
    about="a prior, its samples as a grid and as rows, its floor, the nearest training images; completions.parquet "
    "where it takes known tokens",
)  # fmt: skip
