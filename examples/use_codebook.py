"""Use the two codebooks outside the pipeline: a picture's patches as centroid indices, and the words nearest to it.

python examples/use_codebook.py photo.jpg --clip artifacts/clip --codebooks artifacts/codebook
"""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vqpipe import load_codebook
from vqpipe.vision.clip import Clip

parser = ArgumentParser(description=__doc__)
parser.add_argument("image", type=Path)
parser.add_argument("--clip", type=Path, default=Path("artifacts/clip"))
parser.add_argument("--codebooks", type=Path, default=Path("artifacts/codebook"))
options = parser.parse_args()

clip = Clip.load(options.clip)
words, patches = (load_codebook(options.codebooks / name) for name in ("words", "patches"))
if {words.facts["clip_id"], patches.facts["clip_id"]} != {clip.id}:
    raise SystemExit(f"the codebooks were not made with the CLIP {clip.id}")

pixels = np.array(Image.open(options.image).convert("RGB"), dtype=np.float32)
image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1  # (1, 3, h, w) in [-1, 1]
with torch.no_grad():
    features = clip.patch_features(image, patches.facts["projected"])  # (1, rows, columns, d)
    embedding = clip.encode_image(image)  # (1, e)

side = patches.facts["grid"]
pooled = torch.nn.functional.adaptive_avg_pool2d(features.permute(0, 3, 1, 2), side)  # (1, d, side, side)
print(patches.nearest(pooled.flatten(2)[0].T).view(side, side))
print("nearest words:", ", ".join(words.nearest(embedding, 5)[0]))
