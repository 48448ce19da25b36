"""The judges artifact: the networks that judge samples, trained on a dataset's real images."""

from vqpipe.artifacts.spec import FolderSpec, TensorSpec

JUDGES_WEIGHTS = TensorSpec(
    "judges-weights", 1, {}, stage="judges", open=True,
    about="a shared trunk with a head for each column of the dataset; facts: params, classes, categories, things, "
    "adjectives (each empty without that head), reads_captions, averaged",
)  # fmt: skip

JUDGES = FolderSpec(
    "judges", 1, stage="judges", required=("model.safetensors",), about="facts: as those of the weights"
)
