"""The texts that some arguments of the library and options of the tools may have; it imports nothing, so that `--help`
is quick."""

from __future__ import annotations

from typing import Literal, get_args

Keep = Literal["top", "bottom", "left", "right", "centre"]
KEPT: tuple[Keep, ...] = get_args(Keep)
"""Parts that can be kept without a mask: a half of the image, or the middle half of its rows and columns."""
FeaturesChoice = Literal["clip", "inception", "none"]
"""What distances between sets of images are taken in."""
PerceptualChoice = Literal["clip", "lpips_alex", "lpips_vgg", "none"]
"""The perceptual distance of each image."""
Weights = Literal["raw", "averaged"]
"""Sets of weights in a checkpoint of another project."""
