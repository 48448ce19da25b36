"""A new source of data is one class: what the base class makes of its records, and which params take it."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter

from tests.pair_layouts import picture, put
from vqpipe.artifacts.specs.dataset import IMAGES, QUARANTINE
from vqpipe.artifacts.tables import iter_batches, read_table
from vqpipe.data.adapters import ADAPTERS, source_params
from vqpipe.data.adapters.base import Adapter, Corpus, Holdout
from vqpipe.data.build import DatasetParams, Resize, build_dataset, raw_inputs
from vqpipe.data.captions import Unusable
from vqpipe.data.corpus import CorpusParams, read_captions
from vqpipe.data.records import Bad, Record
from vqpipe.errors import DataError, ParamsError
from vqpipe.params.base import Params, validate


class AlbumSource(Params):
    """A folder with index.csv (file, caption, class) and the images that it names."""

    kind: Literal["album"]
    """Names this source."""
    path: str
    """The folder."""
    holdout: Holdout
    """Shares of the images that become the validation and the test split."""


class Album(Adapter):
    """Photographs with a caption and a class each."""

    kind = "album"
    Params = AlbumSource
    layout = "a folder with index.csv (file, caption, class) and the images"

    def records(self, source: AlbumSource) -> Iterator[Record | Bad]:
        root = Path(source.path)
        with (root / "index.csv").open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                yield Record(
                    row["file"], root / row["file"], (row["caption"],), label_name=row["class"] or None
                )


class PoemCorpus(Corpus):
    """A file of verses with blank lines between them."""

    kind: Literal["poem"]
    """Names this kind."""


class Poem(Adapter):
    """Verses as captions."""

    kind = "poem"
    Params = PoemCorpus
    gives = ("captions",)
    layout = "verses with a blank line between them"

    def records(self, source: PoemCorpus) -> Iterator[Record | Bad]:
        for at, verse in enumerate(Path(source.path).read_text(encoding="utf-8").split("\n\n")):
            yield Record(str(at), captions=tuple(verse.splitlines()))


@pytest.fixture(autouse=True)
def new_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    for adapter in (Album, Poem):
        monkeypatch.setitem(ADAPTERS._places, adapter.kind, f"{__name__}:{adapter.__name__}")
        monkeypatch.setitem(ADAPTERS._loaded, adapter.kind, adapter)


def album(root: Path, rows: list[tuple[str, str, str]]) -> DatasetParams:
    table = "".join(f'{file},"{caption}",{name}\n' for file, caption, name in rows)
    put(root, ("index.csv", "file,caption,class\n" + table))
    holdout = Holdout(validation=0.3, test=0.3, seed=0)
    source: Any = AlbumSource(kind="album", path=str(root), holdout=holdout)
    return DatasetParams.model_construct(
        source=source, resize=Resize(short_side=None, filter="box", too_small="upscale"), max_bad_fraction=0.5,
        max_bad_annotation_fraction=None, max_pixels=1 << 20, shard_bytes=1 << 20,
    )  # fmt: skip


def test_records_become_a_dataset(tmp_path: Path) -> None:
    root = put(tmp_path / "in", *((f"{n}.jpg", picture(n)) for n in range(20)), ("bad.jpg", b"no image"))
    rows = [(f"{n}.jpg", f" a  boat {n}", ("sail", "motor")[n % 2]) for n in range(20)]
    rows += [("3.jpg", "again", "sail"), ("bad.jpg", "a boat", "sail"), ("gone.jpg", "a boat", "oar"),
             ("5.jpg", "", "sail"), ("../x.jpg", "a boat", "sail")]  # fmt: skip
    config = album(root, rows)
    assert raw_inputs(config) == [root]
    metrics = build_dataset(config, tmp_path / "out")
    assert sum(metrics.images.values()) == sum(metrics.captions.values()) == 20
    assert min(metrics.images.values()) > 1
    assert metrics.num_classes == 3  # in the order of the records
    assert metrics.quarantined == {"duplicate_id": 2, "undecodable": 1, "missing_file": 1, "unsafe_path": 1}
    found = {
        row["image_id"]: row
        for shard in (tmp_path / "out").glob("*-0*.parquet")
        for batch in iter_batches(shard, IMAGES)
        for row in batch.to_pylist()
    }
    assert found["7.jpg"]["captions"] == ["a boat 7"]
    assert (found["7.jpg"]["label"], found["7.jpg"]["label_name"]) == (1, "motor")
    left_out = read_table(tmp_path / "out/quarantine.parquet", QUARANTINE).to_pylist()
    assert {row["item"] for row in left_out} == {"3.jpg", "5.jpg", "bad.jpg", "gone.jpg", "../x.jpg"}


def test_an_image_whose_captions_are_all_unusable_is_quarantined(tmp_path: Path) -> None:
    rows = [(f"{n}.jpg", "?" if n else " ", "") for n in range(12)]
    root = put(tmp_path / "in", *((f"{n}.jpg", picture(n)) for n in range(12)))
    metrics = build_dataset(album(root, rows), tmp_path / "out")
    assert metrics.quarantined == {"empty_caption": 1, "no_caption": 1}
    assert metrics.num_classes == 0
    assert metrics.num_annotations == 12


def test_the_path_must_exist(tmp_path: Path) -> None:
    config = album(tmp_path / "in", [])
    gone = config.source.model_copy(update={"path": str(tmp_path / "gone")})
    with pytest.raises(DataError, match=r"gone does not exist(.|\n)*a folder with index\.csv"):
        Album().plan(gone, 1 << 20)


def test_captions_alone_are_a_corpus(tmp_path: Path) -> None:
    put(tmp_path, ("poem.txt", "a red bus\na blue sea\n\n \nthe tall tower"))
    source: Any = PoemCorpus(kind="poem", path=str(tmp_path / "poem.txt"))
    lost = Unusable()
    assert list(read_captions(source, unusable=lost)) == [
        ("0", "a red bus"),
        ("0", "a blue sea"),
        ("1", "the tall tower"),
    ]
    assert lost == {"empty_caption": 1}


def test_each_section_takes_the_sources_that_it_can_use() -> None:
    holdout = {"validation": 0.3, "test": 0.3, "seed": 0}
    images = TypeAdapter(source_params("images"))
    captions = TypeAdapter(source_params("captions"))
    assert isinstance(images.validate_python({"kind": "album", "path": "x", "holdout": holdout}), AlbumSource)
    assert isinstance(captions.validate_python({"kind": "poem", "path": "x"}), PoemCorpus)
    with pytest.raises(
        ValueError, match=r"poem gives captions alone, for corpus; this is one of scenes, .*album"
    ):
        images.validate_python({"kind": "poem", "path": "x"})
    with pytest.raises(ValueError, match=r"album gives images, for dataset\.source; this is one of .*, poem"):
        captions.validate_python({"kind": "album", "path": "x"})


@pytest.mark.parametrize(
    ("value", "message"),
    [({"kind": "tsv", "path": "x"}, r"source\.kind: tsv gives captions alone, for corpus; this is one of scenes, coco"),
     ({"kind": "imagenet"}, r"source\.kind: there is no imagenet; did you mean image_folder\?; it is one of scenes"),
     ({"path": "x"}, r"source\.kind: is missing; it is one of scenes, coco"),
     ({"kind": ["coco"]}, r"source\.kind: there is no \['coco'\]; did you mean coco"),
     ("coco", r"source\.kind: 'coco' is not a block of fields with a kind, one of scenes"),
     ({"kind": "coco", "path": "x", "split": {}}, r"source\.split is not a field; did you mean splits\?")],
)  # fmt: skip
def test_a_source_that_gives_no_images_is_refused_with_the_choices(value: Any, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        validate({"source": value}, "dataset", DatasetParams)


def test_a_corpus_that_gives_images_is_refused_with_the_choices() -> None:
    message = r"corpus\.kind: pairs gives images, for dataset\.source; this is one of coco, dataset, .*, many"
    with pytest.raises(ParamsError, match=message):
        validate({"kind": "pairs", "path": "x"}, "corpus", CorpusParams)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(ADAPTERS))
def test_every_adapter_states_what_it_gives(kind: str) -> None:
    adapter = ADAPTERS[kind]
    assert adapter.kind == kind
    assert adapter.layout
    for gives in adapter.gives:
        model = adapter.params_of(gives)
        assert model is not None
        assert model.model_fields["kind"].annotation == Literal[kind]  # type: ignore[valid-type]
        assert issubclass(model, Corpus) == (gives == "captions")


def test_the_data_are_read_without_torch() -> None:
    """Each worker of `dataset` imports these modules anew, and torch takes seconds."""
    code = "import sys, vqpipe.data.build, vqpipe.data.corpus; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
