"""Visual question answering: the answer to a question about an image, as one of the training split's answers.

Paper: LG-VQ, arXiv 2405.14206, Table 9 and appendix A.1, with the setting of COCO-QA (Ren et al., arXiv 1505.02074):
one-word answers as classes, accuracy, and WUPS at 0.9 and 0.0. The answer is predicted from the last hidden state of a
transformer over codes and question. Its size and the form of the text side are not stated: ours reads both at once
(`JointTransformer`), trained from scratch.

Letters: m questions, b batch, c answers, t words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.specs.task import VQA_PICTURES
from vqpipe.data.asked import questions_of
from vqpipe.data.records import Question
from vqpipe.errors import DataError
from vqpipe.metrics.measured import Interval, text_digest
from vqpipe.metrics.wups import wups
from vqpipe.quantizers.contract import Quantized
from vqpipe.runtime.seeds import derive, numpy_rng
from vqpipe.tasks.heads import HeadParams, JointTransformer
from vqpipe.tasks.inputs import CodeSpace, FrozenInputs
from vqpipe.tasks.task import Album, Examples, HeadResult, Row, Task, TaskMetrics, TaskParams, TaskProtocol
from vqpipe.tasks.words import PAD, UNKNOWN, Vocabulary, has_word

THRESHOLDS = {"wups_09": 0.9, "wups_00": 0.0}
"""The measures of WUPS by name."""


class VqaParams(TaskParams):
    """A transformer over frozen codes and a question."""

    kind: Literal["vqa"]
    """The task."""
    head: HeadParams
    """The transformer."""
    max_answers: Annotated[int, Field(ge=2)]
    """Most different answers that can be given: the most frequent ones of the training split."""
    max_words: Annotated[int, Field(ge=1)]
    """Longest question in words and signs; longer ones are cut."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Share of the target that is spread evenly over all answers in training."""
    num_questions: Annotated[int, Field(ge=1)] | None
    """Most questions of a test image that are measured, drawn at random; null: all of them."""


class AnswerMetrics(Metrics):
    """How questions were answered; shares are in [0, 1]. Floors are of the training split's questions."""

    num_questions: int
    """Test questions."""
    accuracy: Interval
    """Share of the questions with the right answer; higher is better."""
    wups_09: Interval
    """WUPS at 0.9 (`vqpipe.metrics.wups`): an answer that is close in WordNet counts by its similarity, one of a
    similarity below 0.9 by a tenth of it."""
    wups_00: Interval
    """WUPS at 0.0: every answer counts by its similarity."""
    other_image: Interval
    """`accuracy` with the codes of another image, which can mislead the head: it may be below a head without images."""
    other_image_wups_09: float
    """`wups_09` with the codes of another image."""
    other_image_wups_00: float
    """`wups_00` with the codes of another image."""
    majority: float
    """`accuracy` of the most frequent answer for every question."""
    majority_wups_09: float
    """`wups_09` of the most frequent answer for every question."""
    majority_wups_00: float
    """`wups_00` of the most frequent answer for every question."""
    majority_kind: float
    """`accuracy` of the most frequent answer to questions of the same kind."""
    majority_question: float
    """`accuracy` of the most frequent answer to the same text; to its kind where no training question has the text."""
    majority_question_wups_09: float
    """`wups_09` of these answers."""
    majority_question_wups_00: float
    """`wups_00` of these answers."""
    chance: float
    """`accuracy` of an answer drawn evenly."""


class VqaMetrics(AnswerMetrics):
    """A head's answers to all questions, and to those of each kind."""

    kinds: dict[str, AnswerMetrics]
    """By kind of question: object, number, color, location."""


class VqaProtocol(TaskProtocol):
    """What was measured, in words and counts."""

    num_answers: int
    """c, answers that can be given."""
    num_words: int
    """Words and signs of the training questions."""
    num_unknown: int
    """Test questions whose answer cannot be given; they count, and are never right."""
    num_cut: int
    """Test questions longer than `max_words`."""
    num_unknown_words: int | None = None
    """Test questions with a word that no training question has; None in metrics from before it was counted."""
    num_without_words: int | None = None
    """Test questions without a word, such as signs alone; they count. None as above."""
    num_without_question: int
    """Test images without a question."""
    num_train: int
    """Training questions."""
    num_train_left_out: int
    """Training questions with an answer that is not among the `max_answers` most frequent ones."""
    num_train_cut: int
    """Training questions longer than `max_words`."""
    num_train_without_words: int | None = None
    """Training questions without a word; None as above."""


class VqaTaskMetrics(TaskMetrics[VqaMetrics]):
    """The metrics of a pair of this task."""

    protocol: VqaProtocol
    """What was measured."""


@dataclass(frozen=True)
class Asked(Examples):
    """Questions about images."""

    asked: list[Question] = field(kw_only=True)
    """Each example's; answers are in their `plain` form."""
    numbers: list[int] = field(kw_only=True)
    """The place of each question among its image's."""
    num_without: int = field(kw_only=True)
    """Images without a question."""

    @property
    def ids(self) -> list[str]:
        """Image and the place of the question among the image's."""
        pairs = zip(self.positions.tolist(), self.numbers, strict=True)
        return [f"{self.split.ids[at]}#{number}" for at, number in pairs]

    @property
    def answers(self) -> list[str]:
        """The true answer of each question."""
        return [question.answer for question in self.asked]

    def digests(self) -> dict[str, str]:
        """Of questions with answer and kind."""
        return {"questions": text_digest([f"{q.kind}\n{q.question}\n{q.answer}" for q in self.asked])}


@dataclass(frozen=True)
class Floors:
    """The most frequent answers of the training questions; of equally frequent ones the first of the alphabet."""

    overall: str
    by_kind: Mapping[str, str]
    by_question: Mapping[str, str]

    @classmethod
    def of(cls, asked: Sequence[Question]) -> Floors:
        """Of questions whose answers are in their `plain` form."""
        kinds: dict[str, Counter[str]] = {}
        texts: dict[str, Counter[str]] = {}
        for question in asked:
            kinds.setdefault(question.kind, Counter())[question.answer] += 1
            texts.setdefault(plain(question.question), Counter())[question.answer] += 1
        return cls(
            ranked(Counter(question.answer for question in asked))[0],
            {kind: ranked(counts)[0] for kind, counts in kinds.items()},
            {text: ranked(counts)[0] for text, counts in texts.items()},
        )

    def kind(self, question: Question) -> str:
        """To questions of the same kind."""
        return self.by_kind.get(question.kind, self.overall)

    def question(self, question: Question) -> str:
        """To the same text."""
        return self.by_question.get(plain(question.question), self.kind(question))


@dataclass(frozen=True)
class TrainAsked(Asked):
    """Training questions with an answer that can be given; `targets` are words (m, t) and answers (m)."""

    vocabulary: Vocabulary = field(kw_only=True)
    """Words and signs of all training questions."""
    choices: list[str] = field(kw_only=True)
    """Answers that can be given, the most frequent first."""
    floors: Floors = field(kw_only=True)
    """Most frequent answers."""
    num_left_out: int = field(kw_only=True)
    """Questions with another answer."""
    num_cut: int = field(kw_only=True)
    """Questions longer than `max_words`."""


class AnswerHead(nn.Module):
    """A transformer over codes and words, and a linear layer from its query's state to the answers."""

    def __init__(
        self, space: CodeSpace, params: HeadParams, num_words: int, max_words: int, num_answers: int
    ) -> None:
        super().__init__()
        self.joint = JointTransformer(space, params, num_words, max_words)
        self.answers = nn.Linear(params.width, num_answers)

    def forward(self, z_q: Float[Tensor, "b d h w"], words: Int64[Tensor, "b t"]) -> Float[Tensor, "b c"]:
        return self.answers(self.joint(z_q, words))


class Vqa(Task):
    """The task: cross-entropy over the answers of the training split."""

    kind = "vqa"
    asks = "a question"
    question = "what the answer to a question about an image is"
    Params = VqaParams
    Metrics = VqaTaskMetrics
    picture_spec = VQA_PICTURES
    config: VqaParams

    def examples(self, split: str) -> Examples:
        images, positions = self.images(split)
        questions = questions_of(self.dataset, split)
        asked: list[Question] = []
        places: list[int] = []
        numbers: list[int] = []
        most = self.config.num_questions if split == "test" else None
        draws = numpy_rng(self.config.seed, "questions").random((len(questions), max(map(len, questions))))
        for at in positions.tolist():
            own = questions[at]
            order = np.argsort(draws[at, : len(own)], kind="stable")[: len(own) if most is None else most]
            for number in sorted(order.tolist()):
                found = own[number]
                asked.append(Question(found.question, plain(found.answer), found.kind))
                places.append(at)
                numbers.append(number)
        if not asked:
            raise DataError(
                f"{self.where(split)}: no question about the images that are used",
                found=f"{len(positions)} images without one", expected="a larger num_images, or null",
            )  # fmt: skip
        without = sum(not questions[at] for at in positions.tolist())
        at = np.array(places, dtype=np.int64)
        found = Asked(images, at, asked=asked, numbers=numbers, num_without=without)
        return self._train(found) if split == "train" else found

    def _train(self, found: Asked) -> TrainAsked:
        counts = Counter(found.answers)
        choices = ranked(counts)[: self.config.max_answers]
        if len(choices) < 2:
            raise DataError(
                f"{self.where('train')}: every question has one answer", found=choices[0],
                expected="two different answers or more",
            )  # fmt: skip
        number = {answer: at for at, answer in enumerate(choices)}
        kept = [row for row, answer in enumerate(found.answers) if answer in number]
        asked = [found.asked[row] for row in kept]
        vocabulary = Vocabulary.of(question.question for question in asked)
        words, cut = self._encode(vocabulary, asked)
        targets = words, torch.tensor([number[question.answer] for question in asked])
        return TrainAsked(
            found.split, found.positions[kept], targets, asked=asked, numbers=[found.numbers[r] for r in kept],
            num_without=found.num_without, vocabulary=vocabulary, choices=choices, floors=Floors.of(found.asked),
            num_left_out=len(found) - len(kept), num_cut=cut,
        )  # fmt: skip

    def _encode(self, vocabulary: Vocabulary, asked: Sequence[Question]) -> tuple[Int64[Tensor, "m t"], int]:
        """Questions as numbers, as wide as the longest, and how many are longer than `max_words` and cut."""
        words, cut = vocabulary.encode([question.question for question in asked], self.config.max_words)
        return words[:, : max(int((words != PAD).sum(dim=1).max()), 1)], cut

    def known(self, train: Examples) -> dict[str, Any]:
        assert isinstance(train, TrainAsked)
        return {"words": list(train.vocabulary.words), "answers": train.choices}

    def head(self, space: CodeSpace, known: Mapping[str, Any]) -> nn.Module:
        config, words = self.config, len(Vocabulary(tuple(known["words"])))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(config.seed, "task", "head"))
            return AnswerHead(space, config.head, words, config.max_words, len(known["answers"]))

    def answers(
        self, head: nn.Module, known: Mapping[str, Any], seen: Quantized, texts: Sequence[str]
    ) -> list[str]:
        words, notes = Vocabulary(tuple(known["words"])).asked(texts, self.config.max_words)
        chosen = head(seen.z_q, words.to(seen.z_q.device)).argmax(dim=1).tolist()
        return [f"{known['answers'][at]}{note}" for at, note in zip(chosen, notes, strict=True)]

    def loss(
        self, head: nn.Module, inputs: Quantized, batch: Any, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        words, answers = batch
        logits = head(inputs.z_q, words)
        accuracy = (logits.detach().argmax(dim=1) == answers).float().mean()
        return cross_entropy(logits, answers, label_smoothing=self.config.label_smoothing), {
            "accuracy": accuracy
        }

    def measure(self, head: nn.Module, inputs: FrozenInputs, test: Examples, train: Examples) -> HeadResult:
        assert isinstance(test, Asked)
        assert isinstance(train, TrainAsked)
        words, _ = self._encode(train.vocabulary, test.asked)
        chances = self._logits(head, inputs, words).double().softmax(dim=1)
        other = self._logits(head, inputs.of_other_images(self.config.seed), words)
        given = {
            "": [train.choices[at] for at in chances.argmax(dim=1).tolist()],
            "other_image": [train.choices[at] for at in other.argmax(dim=1).tolist()],
            "majority": [train.floors.overall] * len(test),
            "majority_kind": [train.floors.kind(question) for question in test.asked],
            "majority_question": [train.floors.question(question) for question in test.asked],
        }
        truths, values = test.answers, dict[str, Float64[np.ndarray, " m"]]()
        for name, answers in given.items():
            equal = zip(answers, truths, strict=True)
            values[name or "accuracy"] = np.array([float(one == two) for one, two in equal])
        for name, threshold in THRESHOLDS.items():
            for source in ("", "other_image", "majority", "majority_question"):
                values[f"{source}_{name}".lstrip("_")] = wups(given[source], truths, threshold)
        kinds = np.array([question.kind for question in test.asked])
        chance = np.isin(truths, train.choices) / len(train.choices)
        metrics = VqaMetrics(
            **self._numbers(values, chance, np.ones(len(test), dtype=bool)),
            kinds={
                kind: AnswerMetrics(**self._numbers(values, chance, kinds == kind))
                for kind in dict.fromkeys(sorted(kinds.tolist()))
            },
        )
        paired = {name: values[name] for name in ("accuracy", *THRESHOLDS, "other_image")}
        return HeadResult(metrics, paired, (given[""], chances.amax(dim=1).tolist(), given["other_image"]))

    def _numbers(
        self, values: Mapping[str, Float64[np.ndarray, " m"]], chance: Float64[np.ndarray, " m"], rows: Any
    ) -> dict[str, Any]:
        """The fields of `AnswerMetrics` for some questions."""
        found: dict[str, Any] = {"num_questions": int(rows.sum()), "chance": float(chance[rows].mean())}
        for name, own in values.items():
            with_interval = name in ("accuracy", "other_image", *THRESHOLDS)
            found[name] = self.config.interval(own[rows]) if with_interval else float(own[rows].mean())
        return found

    def _logits(
        self, head: nn.Module, inputs: FrozenInputs, words: Int64[Tensor, "m t"]
    ) -> Float[Tensor, "m c"]:
        """On the CPU."""
        found = [
            head(seen.z_q, words[torch.from_numpy(rows)].to(seen.z_q.device)).float().cpu()
            for rows, seen in self.batches(inputs)
        ]
        return torch.cat(found)

    def networks(self, head: nn.Module) -> list[nn.Module]:
        assert isinstance(head, AnswerHead)
        return [head.joint]

    def describe(self, inputs: FrozenInputs, test: Examples, train: Examples) -> TaskProtocol:
        assert isinstance(test, Asked)
        assert isinstance(train, TrainAsked)
        words, cut = self._encode(train.vocabulary, test.asked)
        known = set(train.choices)
        return VqaProtocol(
            **dict(super().describe(inputs, test, train)), num_answers=len(train.choices),
            num_words=len(train.vocabulary.words), num_unknown=sum(answer not in known for answer in test.answers),
            num_cut=cut, num_unknown_words=int((words == UNKNOWN).any(dim=1).sum()),
            num_without_words=_without_words(test.asked), num_without_question=test.num_without, num_train=len(train),
            num_train_left_out=train.num_left_out, num_train_cut=train.num_cut,
            num_train_without_words=_without_words(train.asked),
        )  # fmt: skip

    def pictures(
        self, head: nn.Module, result: HeadResult, inputs: FrozenInputs, test: Examples, album: Album
    ) -> list[Row]:
        """A row for each image that is shown, with all of its questions that are measured."""
        assert isinstance(test, Asked)
        given, chances, others = result.kept
        images = dict.fromkeys(test.positions.tolist())
        count = min(self.config.num_pictures, len(images))
        draws = numpy_rng(self.config.seed, "examples")
        chosen = sorted(draws.choice(list(images), count, replace=False).tolist())
        rows = []
        for at in chosen:
            own = np.flatnonzero(test.positions == at).tolist()
            asked = [test.asked[row] for row in own]
            rows.append({
                "image_id": test.split.ids[at], "picture": album.picture(own[0]),
                "questions": [question.question for question in asked], "kinds": [question.kind for question in asked],
                "answers": [question.answer for question in asked], "predictions": [given[row] for row in own],
                "chances": [chances[row] for row in own], "others": [others[row] for row in own],
                "right": [given[row] == test.asked[row].answer for row in own],
            })  # fmt: skip
        return rows


def _without_words(asked: Sequence[Question]) -> int:
    return sum(not has_word(question.question) for question in asked)


def plain(text: str) -> str:
    """A question or an answer in lower case with single spaces."""
    return " ".join(text.lower().split())


def ranked(counts: Mapping[str, int]) -> list[str]:
    """The most frequent first; equally frequent ones in order of the alphabet."""
    return [text for text, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
