"""Damage to text and faces: with a reader and a finder whose answers are known, and with the packages' interfaces."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from vqpipe.errors import SetupError
from vqpipe.evaluation import damage
from vqpipe.evaluation.damage import FaceProbe, Mtcnn, RapidOcr, TextProbe, load_probes

CPU = torch.device("cpu")
TEXTS = {
    1: ("stop", 0.9),
    2: ("exit 24", 0.95),
    3: ("stop", 0.5),
    4: ("  ", 0.99),
    5: ("stap", 0.1),
    6: ("", 0.0),
}
"""What the reader reads in a box, by its red level, and how sure it is."""


def page(*levels: int) -> np.ndarray:
    """An image of rows of 4 pixels, one for each level."""
    return np.repeat(np.array(levels, dtype=np.uint8), 4)[:, None, None] * np.ones((1, 8, 3), dtype=np.uint8)


class Reader:
    name = "reader 1"

    def find(self, image: np.ndarray) -> list[tuple[int, int, int, int]]:
        return [(0, top, 8, top + 4) for top in range(0, len(image), 4) if image[top, 0, 0]]

    def read(self, image: np.ndarray) -> tuple[str, float]:
        assert image.shape == (4, 8, 3)
        return TEXTS[int(image[0, 0, 0])]


def test_text_is_compared_with_the_reading_of_the_original() -> None:
    probe = TextProbe(Reader())
    first = probe.reference(page(1, 2, 3, 4))  # the third is not sure, the fourth is empty
    assert [line.text for line in first] == ["stop", "exit 24"]
    none = probe.reference(page(0, 0))
    same = probe.compare(first, page(1, 2, 3, 4))
    worse = probe.compare(first, page(5, 6, 6, 6))  # read at the original's boxes, sure or not
    assert (same, worse) == ([0, 0], [1, 7])
    found = probe.summary([first, none, first], [same, probe.compare(none, page(0, 0)), worse])
    assert (found.num_images, found.num_lines, found.num_characters) == (2, 4, 22)
    assert found.character_error_rate == 8 / 22
    assert found.line_accuracy == 0.5
    empty = probe.summary([none], [[]])
    assert (empty.character_error_rate, empty.line_accuracy, empty.num_lines) == (None, None, 0)


BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])


class Finder:
    """Finds the boxes that an image's first level names; an embedding is the image's second level as an angle."""

    name, embedding = "finder 1", "angles"
    answers = {  # noqa: RUF012
        0: BOXES[:0],
        1: BOXES,
        2: torch.tensor([[1.0, 0.0, 10.0, 10.0], [0.0, 1.0, 10.0, 10.0]]),  # one face twice
        3: BOXES + 8.0,  # an overlap of 4 in 196
    }

    def find(self, image: np.ndarray) -> Tensor:
        return self.answers[int(image[0, 0, 0])]

    def embed(self, image: np.ndarray, boxes: Tensor) -> Tensor:
        angle = torch.tensor(float(image[0, 1, 0])) * torch.pi / 180
        return torch.stack([angle.cos(), angle.sin()]).expand(len(boxes), 2)


def face(kind: int, angle: int = 0) -> np.ndarray:
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[0, 0], image[0, 1] = kind, angle
    return image


def test_faces_are_found_again_one_to_one() -> None:
    probe = FaceProbe(Finder())
    reference, none = probe.reference(face(1)), probe.reference(face(0))
    compared = [
        probe.compare(reference, face(kind, angle)) for kind, angle in ((1, 0), (2, 60), (3, 90), (0, 0))
    ]
    assert [one.again for one in compared] == [2, 1, 0, 0]
    found = probe.summary([reference] * 3 + [none], [*compared[:3], probe.compare(none, face(1))])
    assert (found.num_images, found.num_faces, found.detection_recall) == (3, 6, 0.5)
    assert found.embedding_cosine == pytest.approx((1 + 0.5 + 0) / 3, abs=1e-6)
    empty = probe.summary([none], [probe.compare(none, face(1))])
    assert (empty.detection_recall, empty.embedding_cosine) == (None, None)


def test_without_weights_faces_have_no_similarity() -> None:
    class Plain(Finder):
        embedding = None

        def embed(self, image: np.ndarray, boxes: Tensor) -> Tensor:
            raise AssertionError("there is no network")

    probe = FaceProbe(Plain())
    found = probe.summary([probe.reference(face(1))], [probe.compare(probe.reference(face(1)), face(1))])
    assert (found.detection_recall, found.embedding, found.embedding_cosine) == (1.0, None, None)


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A package of that name for the time of a test."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    for key, value in content.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(damage, "version", lambda name: "1.2")


def remove(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    known = damage.find_spec
    monkeypatch.setattr(damage, "find_spec", lambda name: None if name in names else known(name))


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    remove(monkeypatch, "rapidocr", "facenet_pytorch")
    text, faces, left_out = load_probes(CPU)
    assert (text, faces) == (None, None)
    assert ["rapidocr" in left_out[0], "facenet-pytorch" in left_out[1]] == [True, True]
    with pytest.raises(SetupError, match=r"run: +pip install 'vqpipe\[text-damage\]'"):
        RapidOcr()
    with pytest.raises(SetupError, match=r"run: +pip install --no-deps facenet-pytorch"):
        Mtcnn(CPU)


def test_rapidocr_detects_and_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((10, 20, 3), dtype=np.uint8)
    image[..., 0] = 200

    class Engine:
        boxes: Any = None
        texts: Any = None

        def __init__(self, params: dict[str, Any]) -> None:
            assert params["EngineConfig.onnxruntime.intra_op_num_threads"] == torch.get_num_threads()

        def __call__(self, given: np.ndarray, use_det: bool, use_cls: bool, use_rec: bool) -> Any:
            assert given[..., 2].min() == 200  # blue, green, red
            assert (use_cls, use_det) == (False, not use_rec)
            return (
                SimpleNamespace(boxes=self.boxes)
                if use_det
                else SimpleNamespace(txts=self.texts, scores=(0.7,))
            )

    install(monkeypatch, "rapidocr", RapidOCR=Engine)
    install(monkeypatch, "onnxruntime")
    reader = RapidOcr()
    assert reader.name == "rapidocr 1.2"
    assert (reader.find(image), reader.read(image)) == ([], ("", 0.0))
    Engine.texts = ("stop",)
    Engine.boxes = [
        [[2.4, 3.2], [8.1, 3.0], [8.1, 6.5], [2.4, 6.6]],
        [[-3, -2], [40, -2], [40, 0.2], [-3, 0.2]],
    ]
    assert reader.find(image) == [(0, 0, 20, 1), (2, 3, 9, 7)]
    assert reader.read(image) == ("stop", 0.7)


class Embedding(nn.Module):
    """Half of the mean of an image, and what a classifier would add."""

    def __init__(self, pretrained: Any, classify: bool) -> None:
        super().__init__()
        assert (pretrained, classify) == (None, False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 160, 160)
        return images.mean((2, 3)) * self.scale


class Detector:
    answer: Any = (None, [None])

    def __init__(self, **options: Any) -> None:
        assert options == {"keep_all": True, "min_face_size": 20, "device": CPU}

    def detect(self, image: Image.Image) -> Any:
        return self.answer


def test_mtcnn_finds_and_embeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "facenet_pytorch", MTCNN=Detector, InceptionResnetV1=Embedding)
    remove(monkeypatch, "rapidocr")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert Mtcnn(CPU).embedding is None
    assert load_probes(CPU)[2][1].startswith("similarity of faces")
    path = damage.embedding_path()
    assert path == tmp_path / "checkpoints" / damage.EMBEDDING
    path.parent.mkdir()
    torch.save({"scale": torch.tensor([0.5]), "logits.weight": torch.zeros(2)}, path)
    finder = Mtcnn(CPU)
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[:20, :20] = 255
    assert len(finder.find(image)) == 0
    boxes, scores = [[0.0, 0, 20, 20], [5, 5, 9, 9]], [0.99, 0.5]
    monkeypatch.setattr(Detector, "answer", (np.array(boxes, dtype=object), np.array(scores, dtype=object)))
    assert finder.find(image).tolist() == [[0, 0, 20, 20]]
    outside = torch.tensor([[-5.0, -5.0, 20.0, 20.0], [20.0, 20.0, 60.0, 60.0]])
    white, black = finder.embed(image, outside)
    assert white.tolist() == pytest.approx([0.5 * 127.5 / 128] * 3)
    assert black.tolist() == pytest.approx([-0.5 * 127.5 / 128] * 3)
    assert len(load_probes(CPU)[2]) == 1
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(SetupError, match="cannot be read as weights of the face embedding"):
        Mtcnn(CPU)


@pytest.mark.slow
def test_the_real_reader() -> None:
    pytest.importorskip("rapidocr")
    pytest.importorskip("onnxruntime")
    image = Image.new("RGB", (256, 128), "white")
    ImageDraw.Draw(image).text((20, 40), "STOP AHEAD", fill="black", font=ImageFont.load_default(28))
    probe = TextProbe(RapidOcr())
    lines = probe.reference(np.asarray(image))
    assert [line.text for line in lines] == ["STOP AHEAD"]
    assert probe.compare(lines, np.asarray(image)) == [0]
    blurred = image.resize((24, 12)).resize((256, 128))
    assert probe.compare(lines, np.asarray(blurred))[0] > 3


@pytest.mark.slow
def test_the_real_finder() -> None:
    pytest.importorskip("facenet_pytorch")
    from skimage.data import astronaut

    image = Image.fromarray(astronaut()).resize((256, 256))
    probe = FaceProbe(Mtcnn(CPU))
    faces = probe.reference(np.asarray(image))
    assert len(faces.boxes) == 1
    assert probe.compare(faces, np.asarray(image)).again == 1
    assert probe.compare(faces, np.asarray(image.resize((20, 20)).resize((256, 256)))).again == 0
