"""Relations: whether codes relate to one another as the words they are assigned to.

Paper: LG-VQ, arXiv 2405.14206, section 3.2.2, equations 7 and 8; its measure is Table 4's.

A head that is trained by masked text prediction assigns a position to each word (equation 7). The measure compares the
cosine of two words with the cosine of their code vectors, as they are (`raw`) and through a trained projection
(`projected`).

Letters: b batch, s words of the longest caption, c dimensions of all groups' codes together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from pydantic import field_validator
from torch import Tensor, nn

from vqpipe.alignment.aligner import Aligner, AlignParams, EncodedCodes, TextBatch
from vqpipe.alignment.losses import MaskedParams, RelationshipParams, assign, code_vectors, word_vectors
from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.specs.task import RELATIONS_PICTURES
from vqpipe.errors import MismatchError
from vqpipe.metrics.measured import Interval
from vqpipe.quantizers.contract import Quantized
from vqpipe.quantizers.nearest import unit
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.tasks.caption_tasks import (
    MAX_WORDS,
    CaptionHeadMetrics,
    CaptionTask,
    CaptionTaskMetrics,
    CaptionTaskParams,
    Word,
    caption_row,
    caption_words,
    facts_of,
    rows_on,
    side_of,
    text_of,
    text_rows,
)
from vqpipe.tasks.inputs import CodeSpace, FrozenInputs
from vqpipe.tasks.task import Album, Examples, HeadResult, Row
from vqpipe.training.step import over_tensors


class WordRelationsParams(CaptionTaskParams):
    """Words and the codes that a head over frozen codes assigns to them."""

    kind: Literal["relations"]
    """The task."""
    masked: MaskedParams
    """Masked text prediction, by which the head learns which position a word belongs to. Its weight is above 0."""
    relationship: RelationshipParams
    """The loss of the projection. It is left out where the tokenizer's code vectors take no gradient."""

    @field_validator("masked")
    @classmethod
    def _is_used(cls, masked: MaskedParams) -> MaskedParams:
        if masked.weight == 0:
            raise ValueError(
                "weight is 0, and without masked text prediction the positions of words are not learned"
            )
        return masked

    def align(self) -> AlignParams:
        """The head with its losses, as an aligner has them."""
        return self._align(masked=self.masked, relationship=self.relationship)


class CosineMetrics(Metrics):
    """Cosines of codes compared with those of words."""

    mse: Interval
    """Squared difference to the words' cosines, a mean over a caption's pairs and then captions; lower is better."""
    chance: Interval
    """The same with positions drawn evenly for the words."""
    correlation: float | None = None
    """Pearson's, in [-1, 1], of both cosines over all pairs; higher is better. None where either hardly varies."""


class SimilarityMetrics(Metrics):
    """Relations over the captions that have a pair of different words; all but the counts are None without any."""

    num_captions: int
    """Captions with a pair."""
    num_left_out: int
    """Captions without one."""
    raw: CosineMetrics | None = None
    """The code vectors as they are."""
    projected: CosineMetrics | None = None
    """Through the head's projection; None for a head without one."""
    constant: float | None = None
    """The least `mse` that codes of one and the same cosine could reach."""
    same_position: float | None = None
    """Share of the pairs with one position for both words, in [0, 1]; 0 is best."""


class WordRelationsMetrics(CaptionHeadMetrics):
    """A head's relations."""

    similarity: SimilarityMetrics
    """Cosines of words and of their codes."""


class WordRelations(CaptionTask):
    """The task. A pair of one and the same word, as "a .. a", is none: both have the same position, so that their
    cosines are 1 for any codes."""

    kind = "relations"
    question = "whether codes relate to each other as words do"
    Params = WordRelationsParams
    Metrics = CaptionTaskMetrics[WordRelationsMetrics]
    protocol = 2
    picture_spec = RELATIONS_PICTURES
    config: WordRelationsParams

    def align(self, space: CodeSpace) -> AlignParams:
        if not space.has_vectors:
            raise MismatchError(
                "the task relations compares code vectors, and there are none",
                found=f"input: {self.config.input}, {' x '.join(map(str, space.num_codes)) or 'no'} codes",
                expected="input: codes, and a quantizer with code vectors",
            )
        align = self.config.align()
        return align if space.code_dims else align.model_copy(update={"relationship": None})

    def fits(self, aligner: Aligner) -> bool:
        # The masked loss alone trains the network that gives each word its position.
        return aligner.masked_text is not None

    def measure(self, head: nn.Module, inputs: FrozenInputs, test: Examples, train: Examples) -> HeadResult:
        model, text = text_of(head, test)
        draws = numpy_rng(self.config.seed, "positions")
        drawn = torch.from_numpy(draws.integers(0, inputs.space.num_positions, (len(inputs), MAX_WORDS)))
        gathered, shown = Gathered(), set(self.shown(test))
        for rows, quantized in self.batches(inputs):
            batch = text_rows(model, text, rows)
            codes = model.code_transformer(quantized.z_q)
            found = relate(model, quantized, codes, batch, drawn[rows].to(codes.tokens.device))
            gathered.add(found)
            own = np.array([at for at, row in enumerate(rows.tolist()) if row in shown], dtype=np.int64)
            if len(own):
                kept = over_tensors(found, rows_on(own, torch.device("cpu")))
                gathered.shown.append((rows[own], kept))
        values = {f"similarity.{name}": np.concatenate(parts) for name, parts in gathered.errors.items()}
        metrics = WordRelationsMetrics(**facts_of(head, test), similarity=self._similarity(values, gathered))
        return HeadResult(metrics, values, gathered.shown)

    def _similarity(self, values: dict[str, np.ndarray], gathered: Gathered) -> SimilarityMetrics:
        pooled = {name: np.concatenate(parts) for name, parts in gathered.pairs.items()}
        has = np.isfinite(values["similarity.raw"])
        counts: dict[str, Any] = {"num_captions": int(has.sum()), "num_left_out": int((~has).sum())}
        if not has.any():
            return SimilarityMetrics(**counts)
        words, weights = pooled["words"], pooled["weights"]
        kinds: dict[str, Any] = {
            name: CosineMetrics(
                mse=self.config.interval(values[f"similarity.{name}"]),
                chance=self.config.interval(values[f"similarity.random_{name}"]),
                correlation=correlation(words, pooled[name]),
            )
            for name in ("raw", "projected")
            if name in pooled
        }
        mean = np.average(words, weights=weights)
        return SimilarityMetrics(
            **counts, **kinds,
            constant=float(np.average((words - mean) ** 2, weights=weights)),
            same_position=float(np.average(pooled["same"], weights=weights)),
        )  # fmt: skip

    def pictures(
        self, head: nn.Module, result: HeadResult, inputs: FrozenInputs, test: Examples, album: Album
    ) -> list[Row]:
        _, text = text_of(head, test)
        spelled = side_of(head, test).spelled
        rows = []
        for numbers, found in result.kept:
            for at, row in enumerate(numbers.tolist()):
                words = caption_words(text, row)
                s, flat = len(words), inputs.rows([row])[0].flatten(1)
                positions = found.positions[at, :s]
                projected = found.codes.get("projected")
                rows.append({
                    **caption_row(test, album, row), "words": [spelled(word) for word in words],
                    "positions": positions.tolist(), "codes": flat[:, positions].T.tolist(),
                    "word_cosines": _square(found.words[at], s),
                    "code_cosines": _square(found.codes["raw"][at], s),
                    "projected_cosines": None if projected is None else _square(projected[at], s),
                })  # fmt: skip
        return rows


@dataclass(frozen=True)
class Relations:
    """The words of a batch's captions and the codes assigned to them."""

    words: Float[Tensor, "b s s"]
    """Cosines of the words' frozen embeddings."""
    codes: dict[str, Float[Tensor, "b s s"]]
    """Cosines of codes by name: `raw`, and `projected` where the head has a projection; `random_raw` and
    `random_projected` are those at positions that were drawn."""
    pairs: Bool[Tensor, "b s s"]
    """Pairs of a caption's words, each once."""
    positions: Int64[Tensor, "b s"]
    """The position assigned to each word, in raster order."""

    def errors(self, name: str) -> Float64[np.ndarray, " b"]:
        """Each caption's mean of the squared differences over its pairs of words; NaN where it has none."""
        squared = (self.codes[name] - self.words).double().square().masked_fill(~self.pairs, 0.0)
        return np.asarray((squared.sum(dim=(1, 2)) / self.pairs.sum(dim=(1, 2))).cpu())


@dataclass
class Gathered:
    """What is gathered over the batches."""

    errors: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Per caption, by the name in `Relations.codes`."""
    pairs: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Per pair: the cosines by name, `words`, `weights` (1 / pairs of the caption), `same` (one position)."""
    shown: list[tuple[Int64[np.ndarray, " b"], Relations]] = field(default_factory=list)
    """The examples that are kept as pictures."""

    def add(self, found: Relations) -> None:
        """Take a batch."""

        def note(name: str, values: Tensor) -> None:
            self.pairs.setdefault(name, []).append(values[found.pairs].double().cpu().numpy())

        for name, cosines in found.codes.items():
            self.errors.setdefault(name, []).append(found.errors(name))
            note(name, cosines)
        note("words", found.words)
        weights = 1.0 / found.pairs.sum(dim=(1, 2)).double()
        note("weights", weights[:, None, None].expand(found.pairs.shape))
        note("same", found.positions[:, :, None] == found.positions[:, None, :])


def relate(
    head: Aligner,
    quantized: Quantized,
    codes: EncodedCodes,
    text: TextBatch,
    drawn: Int64[Tensor, "b m"],
) -> Relations:
    """The relations of equation 8, on the raw code vectors and through the head's projection.

    Args:
        quantized: has code vectors.
        drawn: positions drawn for the words, at least as many as a caption has words.
    """
    vocabulary = head.vocabulary
    rows = vocabulary.rows(text.tokens, text.real())
    found, present = word_vectors(text.words, rows, vocabulary.embeddings)
    positions = assign(found, codes.tokens)
    projection = head.relationship.projection if head.relationship is not None else nn.Identity()
    cosines: dict[str, Tensor] = {}
    for prefix, chosen in (("", positions), ("random_", drawn[:, : found.shape[1]])):
        vectors = code_vectors(quantized, chosen)
        cosines[f"{prefix}raw"] = _cosines(vectors)
        if not isinstance(projection, nn.Identity):
            cosines[f"{prefix}projected"] = _cosines(projection(vectors))
    pairs = (present[:, :, None] & present[:, None, :]).triu(1) & ~_repeated(text, found.shape[1])
    return Relations(_cosines(found), cosines, pairs, positions)


def correlation(first: Float64[np.ndarray, " n"], second: Float64[np.ndarray, " n"]) -> float | None:
    """Pearson's correlation; None where either hardly varies."""
    if len(first) < 2 or min(first.std(), second.std()) < 1e-6:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _repeated(text: TextBatch, longest: int) -> Bool[Tensor, "b s s"]:
    """Which of the `longest` words of each caption are the same, piece by piece."""
    known: dict[Word, int] = {}
    labels = torch.full((len(text.words), longest), -1)
    for row in range(len(text.words)):
        own = [known.setdefault(word, len(known)) for word in caption_words(text, row)]
        labels[row, : len(own)] = torch.tensor(own, dtype=labels.dtype)
    labels = labels.to(text.words.device)
    return labels[:, :, None] == labels[:, None, :]


def _cosines(rows: Float[Tensor, "b s w"]) -> Float[Tensor, "b s s"]:
    rows = unit(rows.float())
    return rows @ rows.mT


def _square(cosines: Tensor, s: int) -> list[list[float]]:
    return [[float(value) for value in row] for row in cosines[:s, :s].tolist()]
