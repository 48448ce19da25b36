"""Damage to text and faces: what a reader of text and a finder of faces find in the originals and in reconstructions.

A folder of images has no labels, so what a network finds in the original is the reference, and an image without any
change gets a character error rate of 0 and a recall of 1. TokBench (arXiv 2505.18142) measures T-ACC, T-NED and F-Sim
on curated images with other readers; the numbers here are not these, and have other names. The packages are optional,
and nothing is downloaded:

- Text: rapidocr, whose wheel contains its detector and recogniser (PaddleOCR's, as ONNX). Lines are detected in the
  original alone; the recogniser reads the upright box of each line in both images, so that a line that the detector
  would miss in the reconstruction is still read.
- Faces: facenet-pytorch, whose wheel contains MTCNN's weights (Zhang et al. 2016). It is no extra of this package,
  since it pins an old torch. Both images are searched. Where the weights of its face embedding are on disk as well,
  the box of each face of the original is embedded in both images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from vqpipe.artifacts.metrics import Metrics
from vqpipe.errors import SetupError

Picture = UInt8[np.ndarray, "h w 3"]
MIN_LINE_SCORE = 0.8
"""Lines of the original that are recognised with less confidence are no reference."""
MIN_FACE_SCORE = 0.9
"""Faces that are found with less confidence do not count, in originals and in reconstructions."""
MIN_FACE_SIDE = 20
"""Pixels of the smallest face that is looked for; MTCNN's own default."""
MIN_IOU = 0.5
"""Intersection over union from which two boxes are of the same face, as in PASCAL VOC."""
EMBEDDING, EMBEDDING_SIDE = "20180402-114759-vggface2.pt", 160
"""facenet-pytorch's file of the Inception-ResNet v1 trained on VGGFace2, and the side of its images in pixels."""
TEXT_PACKAGES = ("rapidocr", "onnxruntime")
WITHOUT_TEXT = "damage to text: rapidocr or onnxruntime is not installed (pip install 'vqpipe[text-damage]')"
WITHOUT_FACES = (
    "damage to faces: facenet-pytorch is not installed (pip install --no-deps facenet-pytorch; it works with newer "
    "versions of torch than it pins)"
)


class TextDamage(Metrics):
    """How differently text is read in reconstructions; the references are the same reader's lines in the originals."""

    reader: str
    """The package that reads, with its version."""
    num_images: int
    """Images with at least one line."""
    num_lines: int
    """Lines of the originals, read with a confidence of `MIN_LINE_SCORE` or more."""
    num_characters: int
    """Characters of these lines."""
    character_error_rate: float | None = None
    """Levenshtein distances of all lines, summed, over `num_characters`; 0 for equal readings, lower is better. None
    without a line."""
    line_accuracy: float | None = None
    """Share of the lines that are read without any difference, in [0, 1]; None without a line."""


class FaceDamage(Metrics):
    """How many faces are lost in reconstructions; the references are the same detector's faces in the originals."""

    detector: str
    """The package that finds faces, with its version."""
    num_images: int
    """Images with at least one face."""
    num_faces: int
    """Faces in the originals, found with a confidence of `MIN_FACE_SCORE` or more."""
    detection_recall: float | None = None
    """Share of these that are found in the reconstruction too, one to one, with an intersection over union of `MIN_IOU`
    or more; None without a face."""
    embedding: str | None = None
    """The network that embeds faces; None where its weights are not on disk."""
    embedding_cosine: float | None = None
    """Cosine of the embeddings of original and reconstruction at the original's box, in [-1, 1]; mean over faces."""


class TextReader(Protocol):
    """Finds and reads lines of text."""

    name: str

    def find(self, image: Picture) -> list[tuple[int, int, int, int]]:
        """Upright boxes of lines: left, top, right, bottom in pixels, within the image and not empty."""

    def read(self, image: Picture) -> tuple[str, float]:
        """The text of an image of one line, and the reader's confidence in [0, 1]."""


class FaceFinder(Protocol):
    """Finds and embeds faces."""

    name: str
    embedding: str | None

    def find(self, image: Picture) -> Float32[Tensor, "n 4"]:
        """Boxes of faces: left, top, right, bottom in pixels."""

    def embed(self, image: Picture, boxes: Float32[Tensor, "n 4"]) -> Float[Tensor, "n d"]:
        """Embeddings of the faces at these boxes; only asked for where `embedding` is not None."""


@dataclass(frozen=True)
class Line:
    """A line of text of an original."""

    box: tuple[int, int, int, int]
    text: str


class TextProbe:
    """Compares the text of reconstructions with that of their originals, image by image."""

    def __init__(self, reader: TextReader) -> None:
        self.reader = reader

    def reference(self, original: Picture) -> list[Line]:
        """The lines of an original that reconstructions are compared with."""
        boxes = self.reader.find(original)
        read = [(box, *self.reader.read(_cut(original, box))) for box in boxes]
        return [Line(box, text) for box, text, score in read if text.strip() and score >= MIN_LINE_SCORE]

    def compare(self, reference: Sequence[Line], image: Picture) -> list[int]:
        """The Levenshtein distance of each line."""
        from nltk.metrics.distance import edit_distance

        return [
            int(edit_distance(self.reader.read(_cut(image, line.box))[0], line.text)) for line in reference
        ]

    def summary(self, references: Sequence[Sequence[Line]], compared: Sequence[Sequence[int]]) -> TextDamage:
        """The numbers of a set of images."""
        lines = [line for one in references for line in one]
        errors = [error for one in compared for error in one]
        characters = sum(len(line.text) for line in lines)
        return TextDamage(
            reader=self.reader.name, num_images=sum(map(bool, references)), num_lines=len(lines),
            num_characters=characters, character_error_rate=sum(errors) / characters if lines else None,
            line_accuracy=sum(error == 0 for error in errors) / len(lines) if lines else None,
        )  # fmt: skip


@dataclass(frozen=True)
class Faces:
    """The faces of an original."""

    boxes: Float32[Tensor, "n 4"]
    embeddings: Float[Tensor, "n d"] | None


@dataclass(frozen=True)
class FoundFaces:
    """What became of the faces of one image."""

    again: int
    """Faces that are found again."""
    cosines: list[float]


class FaceProbe:
    """Compares the faces of reconstructions with those of their originals, image by image."""

    def __init__(self, finder: FaceFinder) -> None:
        self.finder = finder

    def reference(self, original: Picture) -> Faces:
        """The faces of an original that reconstructions are compared with."""
        boxes = self.finder.find(original)
        embedded = self.finder.embed(original, boxes) if self.finder.embedding and len(boxes) else None
        return Faces(boxes, embedded)

    def compare(self, reference: Faces, image: Picture) -> FoundFaces:
        """Which faces are found again, and how similar they are."""
        if not len(reference.boxes):
            return FoundFaces(0, [])
        cosines: list[float] = []
        if reference.embeddings is not None:
            again = self.finder.embed(image, reference.boxes)
            cosines = torch.nn.functional.cosine_similarity(reference.embeddings, again).tolist()
        return FoundFaces(_matched(reference.boxes, self.finder.find(image)), cosines)

    def summary(self, references: Sequence[Faces], compared: Sequence[FoundFaces]) -> FaceDamage:
        """The numbers of a set of images."""
        faces = sum(len(one.boxes) for one in references)
        cosines = [cosine for one in compared for cosine in one.cosines]
        return FaceDamage(
            detector=self.finder.name, num_images=sum(bool(len(one.boxes)) for one in references), num_faces=faces,
            detection_recall=sum(one.again for one in compared) / faces if faces else None,
            embedding=self.finder.embedding, embedding_cosine=float(np.mean(cosines)) if cosines else None,
        )  # fmt: skip


def _matched(boxes: Float32[Tensor, "n 4"], found: Float32[Tensor, "m 4"]) -> int:
    """The most boxes that have a found one each, of enough overlap."""
    from scipy.optimize import linear_sum_assignment
    from torchvision.ops import box_iou

    if not len(found):
        return 0
    enough = (box_iou(boxes, found) >= MIN_IOU).numpy()
    return int(enough[linear_sum_assignment(enough, maximize=True)].sum())


def _cut(image: Picture, box: tuple[int, int, int, int]) -> Picture:
    left, top, right, bottom = box
    return np.ascontiguousarray(image[top:bottom, left:right])


class RapidOcr:
    """rapidocr's detector and recogniser, on the CPU.

    Raises:
        SetupError: the packages are not installed.
    """

    def __init__(self) -> None:
        if not all(map(find_spec, TEXT_PACKAGES)):
            raise SetupError(WITHOUT_TEXT, run="pip install 'vqpipe[text-damage]'")
        from rapidocr import RapidOCR

        self.name = f"rapidocr {version('rapidocr')}"
        threads = torch.get_num_threads()
        self._engine: Any = RapidOCR(
            params={
                "Global.log_level": "critical",
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            }
        )

    def find(self, image: Picture) -> list[tuple[int, int, int, int]]:
        found = self._engine(_bgr(image), use_det=True, use_cls=False, use_rec=False).boxes
        if found is None:
            return []
        corners = np.asarray(found, dtype=np.float64)
        return sorted(_whole_pixels(corners.min(axis=1), corners.max(axis=1), image))

    def read(self, image: Picture) -> tuple[str, float]:
        found = self._engine(_bgr(image), use_det=False, use_cls=False, use_rec=True)
        return (found.txts[0], float(found.scores[0])) if found.txts else ("", 0.0)


def _bgr(image: Picture) -> Picture:
    return np.ascontiguousarray(image[:, :, ::-1])


class Mtcnn:
    """facenet-pytorch's MTCNN, and its face embedding where the weights are on disk.

    Args:
        device: where the networks run.

    Raises:
        SetupError: the package is not installed.
    """

    def __init__(self, device: torch.device) -> None:
        if find_spec("facenet_pytorch") is None:
            raise SetupError(WITHOUT_FACES, run="pip install --no-deps facenet-pytorch")
        package = import_module("facenet_pytorch")
        self.name = f"facenet-pytorch {version('facenet-pytorch')} MTCNN"
        self._finder: Any = package.MTCNN(keep_all=True, min_face_size=MIN_FACE_SIDE, device=device)
        self._device, self._embedder = device, _embedder(device)
        self.embedding = f"Inception-ResNet v1, {EMBEDDING}" if self._embedder is not None else None

    def find(self, image: Picture) -> Float32[Tensor, "n 4"]:
        boxes, scores = self._finder.detect(Image.fromarray(image))
        if boxes is None:
            return torch.zeros(0, 4)
        kept = np.asarray(scores, dtype=np.float32) >= MIN_FACE_SCORE
        return torch.from_numpy(np.asarray(boxes, dtype=np.float32)[kept])

    @torch.no_grad()
    def embed(self, image: Picture, boxes: Float32[Tensor, "n 4"]) -> Float[Tensor, "n d"]:
        assert self._embedder is not None, "there are no weights"
        side = (EMBEDDING_SIDE, EMBEDDING_SIDE)
        corners = boxes.double().numpy()
        faces = [
            np.asarray(Image.fromarray(_cut(image, box)).resize(side, Image.Resampling.BILINEAR))
            for box in _whole_pixels(corners[:, :2], corners[:, 2:], image)
        ]
        pixels = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).float()
        # The scale that the package's `fixed_image_standardization` gives.
        return self._embedder(((pixels - 127.5) / 128.0).to(self._device)).float().cpu()


def _whole_pixels(
    low: Float[np.ndarray, "n 2"], high: Float[np.ndarray, "n 2"], image: Picture
) -> list[tuple[int, int, int, int]]:
    """The boxes from (x, y) to (x, y) widened to whole pixels and cut to the image; none is empty."""
    height, width = image.shape[:2]
    first = np.clip(np.floor(low), 0, (width - 1, height - 1)).astype(int)
    last = np.clip(np.ceil(high), first + 1, (width, height)).astype(int)
    return [(int(a), int(b), int(c), int(d)) for (a, b), (c, d) in zip(first, last, strict=True)]


def embedding_path() -> Path:
    """Where facenet-pytorch keeps the weights of its face embedding."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return Path(home).expanduser() / "checkpoints" / EMBEDDING


def _embedder(device: torch.device) -> Any:
    """The face embedding in eval mode, or None without its weights.

    Raises:
        SetupError: a file that is something else.
    """
    path = embedding_path()
    if not path.is_file():
        return None
    network = import_module("facenet_pytorch").InceptionResnetV1(pretrained=None, classify=False)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        kept = {name: value for name, value in weights.items() if not name.startswith("logits.")}
        network.load_state_dict(kept)
    except Exception as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        raise SetupError(
            f"{path} cannot be read as weights of the face embedding", found=found, expected=EMBEDDING
        ) from error
    return network.to(device).eval().requires_grad_(False)


def load_probes(device: torch.device) -> tuple[TextProbe | None, FaceProbe | None, list[str]]:
    """What is installed for text and for faces, and one sentence for each part that is left out.

    Raises:
        SetupError: weights of the face embedding that cannot be read.
    """
    left_out: list[str] = []
    text = TextProbe(RapidOcr()) if all(map(find_spec, TEXT_PACKAGES)) else None
    faces = FaceProbe(Mtcnn(device)) if find_spec("facenet_pytorch") is not None else None
    if text is None:
        left_out.append(WITHOUT_TEXT)
    if faces is None:
        left_out.append(WITHOUT_FACES)
    elif faces.finder.embedding is None:
        left_out.append(
            f"similarity of faces: there is no file {EMBEDDING} in the checkpoints of torch's cache (facenet-pytorch's "
            "InceptionResnetV1(pretrained='vggface2') downloads it)"
        )
    return text, faces, left_out
