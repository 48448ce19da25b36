"""Captions one by one, from a dataset or from files of captions, in a stream of bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from vqpipe.data.adapters import ADAPTERS, source_params
from vqpipe.data.adapters.base import Adapter, Corpus
from vqpipe.data.adapters.caption_files import ENCODING_OPTION
from vqpipe.data.adapters.layouts import hinted
from vqpipe.data.captions import BadCaption, Unusable, usable_caption
from vqpipe.data.walk import is_inside
from vqpipe.errors import DataError

if TYPE_CHECKING:
    OneCorpus = Corpus
else:
    OneCorpus = source_params("captions")
    """A corpus of one kind: the params of an adapter that gives captions alone."""


class ManyCorpora(Corpus):
    """Several corpora, read one after the other. Ids begin with the path of their source: `coco/val.json:179765`."""

    kind: Literal["many"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """The folder that contains them all."""
    sources: list[OneCorpus] = Field(min_length=1)
    """The corpora; their paths are relative to the folder `path`. Each keeps to its own `max_bad_fraction`, as far as
    captions are unreadable, and all together to that of the whole."""

    @field_validator("sources")
    @classmethod
    def _within(cls, sources: list[OneCorpus]) -> list[OneCorpus]:
        for source in sources:
            if not is_inside(source.path):
                raise ValueError(f"{source.path} is not in the folder that corpus.path names")
        return sources

    def labels(self) -> list[str]:
        """The prefix of each source's ids: its path, numbered where a path comes again."""
        paths = [source.path for source in self.sources]
        before = [paths[:at].count(path) for at, path in enumerate(paths)]
        return [f"{path}#{times + 1}" if times else path for path, times in zip(paths, before, strict=True)]


if TYPE_CHECKING:
    CorpusParams = Corpus | ManyCorpora
else:
    CorpusParams = source_params("captions", many=ManyCorpora)
    """The section `corpus`: the params of an adapter that gives captions alone, or several of these."""


def read_captions(source: CorpusParams, unusable: Counter[str] | None = None) -> Iterator[tuple[str, str]]:
    """Yield (id, caption) in the source's order; captions of one image share its id.

    Captions are as they were written, but for white space at their ends. Those that are empty, not text or damaged are
    left out, and counted by reason in `unusable` where it is given. A line too short for its columns counts as empty.
    What has no id of its own gets the number of its line or row, with the file in front where the source is a folder
    of text; elements of a JSON file get `#` and their number.

    Args:
        source: the params.
        unusable: receives the number of captions left out, by a word of `vqpipe.data.records.SIDE_REASONS`; an
            `Unusable` also what else is worth a note.

    Raises:
        DataError: nothing at the path, not of its kind, in an encoding that must be named, or no usable
            caption in it. Of `many` sources each must have one, and no more of its captions may be left
            out than its `max_bad_fraction`; of others the caller checks that.
        ArtifactError: `dataset` names no published dataset.
    """
    lost = Counter[str]() if unusable is None else unusable
    if not isinstance(source, ManyCorpora):
        yield from _usable(source, lost)
        return
    for label, own in zip(source.labels(), source.sources, strict=True):
        placed = own.model_copy(update={"path": str(Path(source.path) / own.path)})
        before, read = lost.total(), 0
        for caption_id, caption in _usable(placed, lost):
            yield f"{label}:{caption_id}", caption
            read += 1
        bad = lost.total() - before
        if bad > own.max_bad_fraction * (bad + read):
            raise DataError(
                f"corpus: of {placed.path}, {bad / (bad + read):.1%} of the captions cannot be used",
                found=f"{bad:,} of {bad + read:,}",
                expected=f"at most its max_bad_fraction = {own.max_bad_fraction:g} of them",
            )


def _usable(source: OneCorpus, lost: Counter[str]) -> Iterator[tuple[str, str]]:
    adapter = ADAPTERS[source.kind]()
    usable, own = 0, Unusable()
    try:
        for caption_id, raw in adapter.captions(source, own):
            try:
                caption = usable_caption(raw)
            except BadCaption as error:
                own.leave_out(error.reason, caption_id, raw)
                continue
            usable += 1
            yield caption_id, caption
        if usable == 0:
            raise _nothing_usable(source, adapter, own)
    except DataError as error:
        if not adapter.may_be_pairs:
            raise
        also = "; and corpus: {kind: dataset, path: artifacts/dataset}"
        raise hinted(error, Path(source.path), also) from error
    finally:
        lost.update(own)
        if isinstance(lost, Unusable):
            for reason, example in own.examples.items():
                lost.examples.setdefault(reason, example)
            lost.without_id += own.without_id
            lost.other_splits += own.other_splits


def _nothing_usable(source: OneCorpus, adapter: Adapter, lost: Unusable) -> DataError:
    counts = ", ".join(f"{count} {reason}" for reason, count in lost.most_common())
    return DataError(
        f"corpus: no usable caption in {source.path}",
        found=(counts or "no captions at all") + (f"; {lost.hint}" if lost.hint else ""),
        expected=adapter.caption_layout or adapter.layout,
        run=f"set {ENCODING_OPTION} to the encoding of the text" if lost["caption_not_utf8"] else None,
    )
