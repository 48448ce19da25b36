"""Captioning: a caption generated from an image's codes, in ClipCap's form (Mokady et al., arXiv 2111.09734).

LG-VQ (arXiv 2405.14206, Table 11) reports BLEU-4, ROUGE-L, METEOR and CIDEr-D on CUB-200 and publishes no code for it.
The network is `vqpipe.tasks.captioner`, the scores are those of the reference package
(`vqpipe.metrics.caption_scores`).

Next to each number come the same scores of what needs no image: another image's codes, the most frequent training
caption, and a training caption drawn for each image; and of one of an image's true captions against its others.

Letters: n examples, one of each image; b batch, c captions of an image, t words.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.specs.task import CAPTIONING_PICTURES
from vqpipe.data.annotations import things_of
from vqpipe.errors import DataError, MismatchError, SetupError
from vqpipe.metrics.caption_scores import need_java
from vqpipe.metrics.caption_words import num_one_word, ptb_words
from vqpipe.metrics.measured import Interval, text_digest
from vqpipe.quantizers.contract import Quantized
from vqpipe.runtime.distributed import is_main
from vqpipe.runtime.seeds import derive, numpy_rng
from vqpipe.runtime.terminal import say
from vqpipe.tasks.caption_numbers import CaptionNumbers, PerImage, Scored, scored
from vqpipe.tasks.captioner import Captioner, CaptionerParams
from vqpipe.tasks.inputs import CodeSpace, FrozenInputs
from vqpipe.tasks.languages import Coder, Gpt2Coder, Gpt2Params, coder_of, known_coder
from vqpipe.tasks.task import Album, Examples, HeadResult, Row, Task, TaskMetrics, TaskParams, TaskProtocol

CaptionSet = tuple[Sequence[str], Sequence[Sequence[str]], Int64[np.ndarray, " m"]]
"""A caption and the references of each of m test images, and which images they are."""
LOGITS = 1 << 26
"""Most logits of captions that are made at once in measuring, 256 MB in float32."""


class CaptioningParams(TaskParams):
    """A caption of an image from its codes."""

    kind: Literal["captioning"]
    """The task."""
    head: CaptionerParams
    """The network."""
    max_words: Annotated[int, Field(ge=1)]
    """Most words of a caption, or byte-pair tokens for GPT-2; longer training captions are cut and counted, and a
    generated one ends there at the latest."""
    num_captions: Annotated[int, Field(ge=1)]
    """Captions of an image in a step, drawn anew each time, different ones where it has as many; 1 in ClipCap. The
    image is mapped once for all of them."""
    beam: Annotated[int, Field(ge=1)]
    """Beams of the search; 5 in ClipCap, 1 takes the likeliest word each time."""
    java: bool | None
    """Whether the scores use Java: Stanford's tokenizer in the place of ours, METEOR and SPICE where they run. Null is
    where there is a Java; false gives the same numbers on machines with and without one; true is refused before
    training where the tokenizer does not run."""


class CaptioningMetrics(Metrics):
    """A head's captions next to their floors and a human reference."""

    generated: CaptionNumbers
    """The head's captions."""
    other_image: CaptionNumbers
    """The head's captions for another image's input: what the language alone gives."""
    commonest: CaptionNumbers
    """The most frequent training caption, for every image."""
    chance: CaptionNumbers
    """For each image a caption drawn from those of the training split."""
    human: CaptionNumbers | None = None
    """A reference and no bound: for each image with several captions, a true one that is left out, against the others.
    People wrote it only where they wrote the dataset's captions. None where fewer than two images have several."""
    generated_as_human: CaptionNumbers | None = None
    """The head's captions of the images of `human` against its references, one fewer than in `generated`."""
    bits: Interval
    """Bits per word of the image's true captions under the head: the code length of words, signs and ends by the number
    of words and signs, for GPT-2 too; lower is better. All words that the language model has no number for count as one
    and the same word (`num_unknown`), so that values compare where the vocabulary is the same."""
    bits_other_image: Interval
    """The same with another image's input."""
    num_distinct: int
    """Different captions among those generated."""
    num_empty: int
    """Generated captions without a word, as the scores count words."""
    tokenizer: str
    """Which words the scores count: `ptb` (ours) or `ptb-java` (Stanford's). With Java ours too where
    it failed after training; `absent` then says so."""
    absent: dict[str, str]
    """Why a score is absent, by its name."""


class CaptioningProtocol(TaskProtocol):
    """What was measured, in words and counts."""

    language_model: str
    """`words`, or GPT-2 with a digest of its files."""
    num_tokens: int
    """Numbers in its vocabulary."""
    num_references: int
    """Captions of the test images, those that are dropped not among them."""
    num_one_word: int
    """Of these, those of one word."""
    num_test_cut: int
    """Of these, those that are cut in `bits`, as they are longer than `max_words`."""
    num_dropped: int
    """Captions of test images without a word, as the scores count words; their images may have others."""
    num_left_out: int
    """Test images without a caption."""
    num_train_left_out: int
    """Training images without a caption."""
    num_train_dropped: int
    """Captions of training images without a word."""
    num_train_captions: int
    """Training captions."""
    num_train_one_word: int
    """Of these, those of one word."""
    num_cut: int
    """Of these, those that are longer than `max_words` and are cut."""
    num_unknown: int
    """Words of the test captions that the language model has no number for."""


class CaptioningTaskMetrics(TaskMetrics[CaptioningMetrics]):
    """The metrics of a pair."""

    protocol: CaptioningProtocol
    """What was measured."""


@dataclass(frozen=True)
class Captioned(Examples):
    """Images with at least one caption each."""

    captions: list[list[str]] = field(kw_only=True)
    """Of each example, those that have a word."""
    num_left_out: int = field(kw_only=True)
    """Images without a caption."""
    num_dropped: int = field(kw_only=True)
    """Captions without a word."""
    objects: list[set[str]] = field(kw_only=True, default_factory=list)
    """Of each test example, the names of the annotated objects."""

    def digests(self) -> dict[str, str]:
        return {"captions": self._digest(self.captions)} | (
            {"things": self._digest([sorted(own) for own in self.objects])} if any(self.objects) else {}
        )

    def _digest(self, texts: Sequence[Sequence[str]]) -> str:
        """Of which image has which texts."""
        return text_digest(json.dumps([name, *own]) for name, own in zip(self.ids, texts, strict=True))


@dataclass(frozen=True)
class TrainCaptioned(Captioned):
    """The training images with their captions as numbers."""

    coder: Coder = field(kw_only=True)
    words: Int64[Tensor, "m t"] = field(kw_only=True)
    """All captions, in the order of the examples."""
    num_cut: int = field(kw_only=True)
    """Captions that are cut."""
    num_captions: int = field(kw_only=True)
    """c."""
    seed: int = field(kw_only=True)
    """Of the draws."""

    @property
    def flat(self) -> list[str]:
        """All captions, in the order of `words`."""
        return [text for own in self.captions for text in own]

    @cached_property
    def counts(self) -> Int64[np.ndarray, " n"]:
        """Captions of each image."""
        return np.array([len(own) for own in self.captions])

    @cached_property
    def starts(self) -> Int64[np.ndarray, " n"]:
        """The row of `words` at which each image's captions start."""
        return np.cumsum(self.counts) - self.counts

    def batch(
        self, rows: Int64[np.ndarray, " b"], step: int = 0, share: slice = slice(None)
    ) -> Int64[Tensor, "b c t"]:
        """Captions of each image, from a drawn one on, around its list. All of the batch are drawn, so that draws do
        not depend on the number of ranks."""
        starts, own = self.starts[rows], self.counts[rows]
        first = (numpy_rng(self.seed, "captions", step).random(len(rows)) * own).astype(np.int64)
        chosen = starts[:, None] + (first[:, None] + np.arange(self.num_captions)) % own[:, None]
        return self.words[torch.from_numpy(chosen[share])]


@dataclass(frozen=True)
class Generated:
    """What was generated for the test images, with the CIDEr-D of each."""

    captions: list[str]
    cider_d: PerImage
    others: list[str]
    """For another image's input."""
    others_cider_d: PerImage


class Captioning(Task):
    """The task. Images without a caption are left out and counted; captions of one word are allowed."""

    kind = "captioning"
    question = "a caption, word by word"
    Params = CaptioningParams
    Metrics = CaptioningTaskMetrics
    picture_spec = CAPTIONING_PICTURES
    protocol = 2
    config: CaptioningParams

    def examples(self, split: str) -> Captioned:
        images, positions = self.images(split)
        every = [images.captions[at] for at in positions.tolist()]
        texts = [[text for text in own if ptb_words(text)] for own in every]
        dropped = sum(map(len, every)) - sum(map(len, texts))
        kept = [row for row, own in enumerate(texts) if own]
        if len(kept) < 2:
            raise DataError(
                f"{self.where(split)}: captioning needs images with captions",
                found=f"{len(kept)} of {len(texts)} images have one with a word", expected="2 or more",
            )  # fmt: skip
        captions, left_out = [texts[row] for row in kept], len(texts) - len(kept)
        if split == "test":
            if self.config.java is not False:  # settled before anything is trained
                _say_absent(need_java(self.config.java))
            return Captioned(
                images, positions[kept], captions=captions, num_left_out=left_out, num_dropped=dropped,
                objects=self.objects(split, positions[kept]),
            )  # fmt: skip
        config, flat = self.config, [text for own in captions for text in own]
        coder = coder_of(config.head.language_model, flat)
        words, cut = coder.encode(flat, config.max_words)
        return TrainCaptioned(
            images, positions[kept], captions=captions, num_left_out=left_out, num_dropped=dropped, coder=coder,
            words=words, num_cut=cut, num_captions=config.num_captions, seed=config.seed,
        )  # fmt: skip

    def objects(self, split: str, positions: Int64[np.ndarray, " n"]) -> list[set[str]]:
        """The names of the annotated objects of some images."""
        things = things_of(self.dataset, split, self.resolution)
        return [{thing.name for thing in things[at]} for at in positions.tolist()]

    def recorded(self) -> dict[str, Any]:
        own, language = super().recorded(), self.config.head.language_model
        if isinstance(language, Gpt2Params):  # what the folder has, in the place of where it is
            del own["head"]["language_model"]["path"]
            own["head"]["language_model"]["files"] = Gpt2Coder(language.path).name
        return own

    def known(self, train: Examples) -> dict[str, Any]:
        assert isinstance(train, TrainCaptioned)
        return train.coder.known

    def head(self, space: CodeSpace, known: Mapping[str, Any]) -> nn.Module:
        config = self.config
        coder = known_coder(config.head.language_model, known)
        if config.beam > coder.num_tokens:
            raise MismatchError(
                "the search has more beams than the vocabulary has words",
                found=f"beam {config.beam}, {coder.num_tokens} words", expected="a smaller beam, or min_count",
            )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(config.seed, "task", "head"))
            return Captioner(space, config.head, coder, config.max_words)

    def loss(
        self, head: nn.Module, inputs: Quantized, batch: Any, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        assert isinstance(head, Captioner)
        return head.losses(inputs.z_q, batch).mean(), {}

    def measure(self, head: nn.Module, inputs: FrozenInputs, test: Examples, train: Examples) -> HeadResult:
        assert isinstance(head, Captioner)
        assert isinstance(test, Captioned)
        assert isinstance(train, TrainCaptioned)
        config, foreign = self.config, inputs.of_other_images(self.config.seed)
        texts: dict[str, list[str]] = {"generated": [], "other_image": []}
        parts: dict[str, list[PerImage]] = {"bits": [], "bits_other_image": []}
        for rows, quantized in self.batches(inputs):
            own = [test.captions[row] for row in rows.tolist()]
            for name, bits, z_q in zip(texts, parts, (quantized.z_q, foreign.batch(rows).z_q), strict=True):
                texts[name] += head.captions(z_q, config.beam)
                parts[bits].append(bits_per_word(head, z_q, own))
        flat = train.flat
        counts = Counter(flat)
        texts["commonest"] = [min(counts, key=lambda text: (-counts[text], text))] * len(test)
        drawn = numpy_rng(config.seed, "chance").integers(0, len(flat), len(test))
        texts["chance"] = [flat[at] for at in drawn.tolist()]

        rows = np.arange(len(test))
        sets: dict[str, CaptionSet] = {name: (own, test.captions, rows) for name, own in texts.items()}
        sets |= human_sets(test.captions, texts["generated"], config.seed)
        values = {name: np.concatenate(own) for name, own in parts.items()}
        intervals = {name: config.interval(own) for name, own in values.items()}
        found, absent = self._scored(sets, test.objects)
        for name, part in found.items():
            for score, of in part.values.items():
                values[f"{name}.{score}"] = np.full(len(test), np.nan)
                values[f"{name}.{score}"][sets[name][2]] = of
        metrics = CaptioningMetrics.model_validate({
            **{name: part.numbers for name, part in found.items()}, **intervals,
            "num_distinct": len(set(texts["generated"])),
            "num_empty": sum(not ptb_words(text) for text in texts["generated"]),
            "tokenizer": found["generated"].tokenizer, "absent": absent,
        })  # fmt: skip
        cider_d = (values["generated.cider_d"], values["other_image.cider_d"])
        kept = Generated(texts["generated"], cider_d[0], texts["other_image"], cider_d[1])
        return HeadResult(metrics, values, kept)

    def _scored(
        self, sets: Mapping[str, CaptionSet], objects: Sequence[set[str]]
    ) -> tuple[dict[str, Scored], dict[str, str]]:
        """The scores of each set, all by one tokenizer, and why a score is absent. A program in Java that fails now is
        stated, and does not lose the trained head."""

        def score(java: bool | None) -> dict[str, Scored]:
            return {
                name: scored(own, others, [objects[at] for at in rows.tolist()], java, self.config.interval)
                for name, (own, others, rows) in sets.items()
            }

        why = None
        try:
            found = score(self.config.java)
        except SetupError as error:  # Stanford's tokenizer ran before training
            found, why = score(False), f"Java failed after training, all words are by our tokenizer: {error}"
        absent = {name: why or reason for own in found.values() for name, reason in own.absent.items()}
        if self.config.java is not False:
            _say_absent(absent)
        return found, absent

    def pictures(
        self, head: nn.Module, result: HeadResult, inputs: FrozenInputs, test: Examples, album: Album
    ) -> list[Row]:
        assert isinstance(test, Captioned)
        made: Generated = result.kept
        return [
            {
                "image_id": test.ids[row], "picture": album.picture(row), "references": test.captions[row],
                "caption": made.captions[row], "cider_d": float(made.cider_d[row]),
                "other_caption": made.others[row], "other_cider_d": float(made.others_cider_d[row]),
            }
            for row in self.shown(test)
        ]  # fmt: skip

    def answers(
        self, head: nn.Module, known: Mapping[str, Any], seen: Quantized, texts: Sequence[str]
    ) -> list[str]:
        assert isinstance(head, Captioner)
        return head.captions(seen.z_q, self.config.beam)

    def describe(self, inputs: FrozenInputs, test: Examples, train: Examples) -> TaskProtocol:
        assert isinstance(test, Captioned)
        assert isinstance(train, TrainCaptioned)
        references = [text for own in test.captions for text in own]
        return CaptioningProtocol(
            **dict(super().describe(inputs, test, train)),
            language_model=train.coder.name, num_tokens=train.coder.num_tokens, num_references=len(references),
            num_one_word=num_one_word(references), num_train_one_word=num_one_word(train.flat),
            num_test_cut=train.coder.encode(references, self.config.max_words)[1],
            num_left_out=test.num_left_out, num_dropped=test.num_dropped, num_train_left_out=train.num_left_out,
            num_train_dropped=train.num_dropped, num_train_captions=len(train.words),
            num_cut=train.num_cut, num_unknown=train.coder.num_unknown(references),
        )  # fmt: skip


def _say_absent(absent: Mapping[str, str]) -> None:
    """State which scores are absent, and why."""
    if is_main():
        for name, reason in absent.items():
            say(f"warning: captioning is measured without {name.upper()}: {reason}", err=True)


def bits_per_word(
    head: Captioner, z_q: Float[Tensor, "b d h w"], captions: Sequence[Sequence[str]]
) -> PerImage:
    """Bits per word of each image's captions under a head: all bits by all words, whichever pieces the coder has.

    Captions longer than the head's `max_words` are cut. At most `LOGITS` logits are made at once, or one caption's.
    """
    words, _ = head.coder.encode([text for own in captions for text in own], head.max_words)
    owners = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    prefix, size = head.prefix(z_q), max(1, LOGITS // (words.shape[1] * head.coder.num_tokens))
    nats = []
    for at in range(0, len(words), size):
        rows = torch.from_numpy(owners[at : at + size]).to(z_q.device)
        losses = head.word_losses(prefix[rows], words[at : at + size].to(z_q.device))
        nats.append(losses.double().sum(dim=1).cpu().numpy())
    totals = np.bincount(owners, np.concatenate(nats))
    return np.asarray(totals / np.bincount(owners, head.coder.num_words(words).numpy()) / math.log(2))


def human_sets(
    references: Sequence[Sequence[str]], generated: Sequence[str], seed: int
) -> dict[str, CaptionSet]:
    """A true caption of each image, drawn and left out, against the others; and the generated ones against the same.

    Returns:
        The captions, their references, and the images, those with several references; empty for fewer than two.
    """
    rows = np.array([row for row, own in enumerate(references) if len(own) > 1], dtype=np.int64)
    if len(rows) < 2:
        return {}
    draws = numpy_rng(seed, "human").random(len(references))
    own, others = [], []
    for row in rows.tolist():
        texts = list(references[row])
        own.append(texts.pop(int(draws[row] * len(texts))))
        others.append(texts)
    return {
        "human": (own, others, rows),
        "generated_as_human": ([generated[row] for row in rows], others, rows),
    }
