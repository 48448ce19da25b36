"""A solved task with what it needs to answer about any image: its tokenizer, and the run's CLIP.

    task = ImageTask.from_pretrained("artifacts/task/lc-vqa")
    task.answer(Image.open("photo.jpg"), "what color is the car?")   # ["red"]

Letters: b images, r side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.task import TASK
from vqpipe.data.loader import to_uint8
from vqpipe.errors import MismatchError
from vqpipe.library.clips import stored_clip
from vqpipe.library.hub import Tokenizer
from vqpipe.library.places import Place, find_part
from vqpipe.tasks.stored import FreshHead, load_head, read_task_params
from vqpipe.tasks.task import Task

PLACE = Place("task", Path("artifacts/task"), frozenset({TASK.name}), on_hub=False)
"""Where tasks are."""


class ImageTask:
    """Answers about images. Images of any size are prepared as the tokenizer's are: cut to a square, and scaled."""

    def __init__(self, task: Task, head: FreshHead, tokenizer: Tokenizer) -> None:
        self.task, self.head, self.tokenizer = task, head, tokenizer

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        *,
        tokenizer: str | Path | None = None,
        clip: str | Path | None = None,
    ) -> ImageTask:
        """Read a task's head, its tokenizer and the run's CLIP, all in eval mode.

        Args:
            path: the folder of a task artifact, or a name below artifacts/task.
            device: where all of them go.
            tokenizer: as `Tokenizer.from_pretrained` takes it, if not next to the artifact or where its lineage says.
            clip: the folder of the run's CLIP, found in the same way.

        Raises:
            ArtifactError: no task, tokenizer or CLIP there, or a damaged one.
            MismatchError: another tokenizer or CLIP than the task was solved with.
        """
        folder = PLACE.local(str(path))
        assert folder is not None, "no task is on the Hub"
        read_manifest(folder, TASK)
        config = read_task_params(folder)
        of = tokenizer or find_part(folder, Path("tokenizer", config.tokenizer), "tokenizer")
        text = Path(clip) if clip else find_part(folder, Path("clip"), "clip")
        own = Tokenizer.from_pretrained(of, device)
        return cls(*load_head(folder, own, stored_clip(text, device)), own)

    @property
    def asks(self) -> str | None:
        """What is stated next to each image, such as a question; None where nothing is."""
        return self.task.asks

    def answer(
        self, images: Image.Image | Sequence[Image.Image], texts: str | Sequence[str] | None = None
    ) -> list[str]:
        """The head's answers, one line of text for each image.

        Args:
            images: PIL images; one is asked every text.
            texts: a question or an expression for each image, where the task asks for one; one is asked of all.

        Raises:
            MismatchError: texts where the task takes none, none where it asks for one, or another number of them; or a
                task that has no answer for a single image.
        """
        self.task.need_answers()
        listed = [images] if isinstance(images, Image.Image) else list(images)
        asked = [] if texts is None else [texts] if isinstance(texts, str) else list(texts)
        if (self.asks is None) == bool(asked) or not all(map(str.strip, asked)):
            wanted = "no text" if self.asks is None else f"{self.asks} with each image"
            raise MismatchError(
                f"the task {self.task.kind} takes {wanted}",
                found=f"{len(asked)} texts" + (", one of them empty" if "" in map(str.strip, asked) else ""),
                expected=wanted,
            )
        if len(listed) == 1:
            listed = listed * max(len(asked), 1)
        if len(asked) == 1:
            asked = asked * len(listed)
        if asked and len(asked) != len(listed):
            raise MismatchError(
                "another number of texts than of images", found=f"{len(asked)} and {len(listed)}",
                expected="one text, one image, or as many of both",
            )  # fmt: skip
        pixels = to_uint8(self.tokenizer.preprocess(listed)).cpu()
        with torch.no_grad():
            return self.task.answers(self.head.network, self.head.known, self.head.see(pixels), asked)
