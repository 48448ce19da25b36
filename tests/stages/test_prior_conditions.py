"""The prior stage with classes, texts and label maps, judged; completions; conditions that the data lack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner, Result

import vqpipe.priors as priors
from stages.prior import app
from stages.tokens import app as tokens_app
from tests.following_prior import PLACE
from tests.small_judges import PARAMS, SCENES
from tests.stages.test_prior import SHARED
from tests.tiny import write_dataset, write_tiny_clip, write_tokenizer
from vqpipe.artifacts.specs.prior import COMPLETIONS, SAMPLES
from vqpipe.artifacts.tables import read_table
from vqpipe.data.annotations import LabelMaps
from vqpipe.data.build import DatasetParams, build_dataset
from vqpipe.data.images import decode_png
from vqpipe.data.loader import ImageSplit
from vqpipe.data.read import open_split
from vqpipe.errors import ParamsError
from vqpipe.evaluation.judges import JudgeParams, Judges, Subjects
from vqpipe.metrics.distances import Features
from vqpipe.params.base import validate
from vqpipe.priors import PRIORS, measure_prior
from vqpipe.priors.examples import some
from vqpipe.priors.measure import PriorMetrics
from vqpipe.priors.text import ClipText
from vqpipe.runtime.seeds import seed_everything
from vqpipe.vision.clip import Clip

SAMPLING = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "guidance": 1.5}
TEXT = {"encoder": "clip", "max_tokens": 8}
FOLLOWS = {
    "kind": "follows", "tokenizer": "tokenizer", "sampling": SAMPLING,
    "training": {**SHARED["training"], "num_steps": 3},
}  # fmt: skip
PAIRS: dict[str, Any] = {
    "by-class": {**FOLLOWS, "condition": "class"},
    "by-text": {**FOLLOWS, "condition": "text", "text": TEXT},
    "by-map": {**FOLLOWS, "condition": "label_map"},
    "completes-few": {**FOLLOWS, "condition": "class", "max_completed": 8},
    "long-text": {**FOLLOWS, "condition": "text", "text": {**TEXT, "max_tokens": 9}},
    "by-nothing": {
        **FOLLOWS, "condition": "none", "condition_drop": 0.0, "sampling": {**SAMPLING, "guidance": 1.0},
    },
}  # fmt: skip
PAIRS["by-inception"] = {
    **PAIRS["by-nothing"],
    "distances": {**SHARED["distances"], "features": "inception"},
}
SETS = ("samples", "unigram_samples", "reconstructions", "test_images", "another_condition")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prior_conditions")
    section = {
        "source": {**SCENES, "num_train": 40, "num_validation": 6, "num_test": 24},
        "resize": {"short_side": None, "filter": "lanczos", "too_small": "quarantine"},
        "max_bad_fraction": 0.0, "max_pixels": 4096, "shard_bytes": 1 << 20,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_WORKERS", "1")
        build_dataset(validate(section, "dataset", DatasetParams), root / "dataset")
    write_dataset(root / "without", {"train": 20, "validation": 4, "test": 20}, templates=[])
    write_tokenizer(root / "tokenizer")
    write_tiny_clip(root / "clip")
    facts = open_split(root / "dataset", "test").facts
    write_judges(root / "judges", Subjects(facts["classes"], facts["categories"], ("boat",), ("red",), True))
    write_judges(root / "classifier", Subjects(facts["classes"]))
    write_judges(root / "foreign", Subjects(("cat", "dog")))
    common = {name: value for name, value in SHARED.items() if name != "condition"}
    with (root / "params.yaml").open("w") as stream:
        YAML().dump({"prior": {"common": common, "pairs": PAIRS}, "tokens": {"batch_size": 8}}, stream)
    for data in ("dataset", "without/dataset"):
        arguments = [
            f"--dataset={root / data}", f"--tokenizer={root / 'tokenizer'}", f"--params={root / 'params.yaml'}",
        ]  # fmt: skip
        result = CliRunner().invoke(tokens_app, [*arguments, f"--out={tokens_of(root, data)}"])
        assert result.exit_code == 0, result.output
    return root


def tokens_of(root: Path, data: str) -> Path:
    return root / f"tokens-{data.replace('/', '-')}"


def write_judges(folder: Path, subjects: Subjects) -> None:
    """Judges with fresh weights."""
    own = Subjects(*map(tuple, (subjects.classes, subjects.categories, subjects.things, subjects.adjectives)),
                   reads_captions=subjects.reads_captions)  # fmt: skip
    seed_everything(0, "judges")
    Judges(validate({**PARAMS, "crop": 16, "resolution": 16}, "judges", JudgeParams), own).save(folder, True)


@pytest.fixture(autouse=True)
def _with_the_toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PRIORS._places, "follows", PLACE)
    monkeypatch.setattr(priors, "AnyPrior", PRIORS.params())
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


def run(inputs: Path, out: Path, pair: str, judges: str | None = "judges", data: str = "dataset") -> Result:
    arguments = {
        "pair": pair, "dataset": inputs / data, "clip": inputs / "clip", "tokenizer": inputs / "tokenizer",
        "tokens": tokens_of(inputs, data), "params": inputs / "params.yaml", "out": out / "prior",
        "metrics": out / "metrics.json", "curves": out / "curves.csv",
    } | ({} if judges is None else {"judges": inputs / judges})  # fmt: skip
    return CliRunner().invoke(
        app, [text for name, path in arguments.items() for text in (f"--{name}", str(path))]
    )


def measured(inputs: Path, out: Path, pair: str, judges: str | None = "judges") -> PriorMetrics:
    result = run(inputs, out, pair, judges)
    assert result.exit_code == 0, result.output
    return PriorMetrics.read(out / "metrics.json")


@pytest.mark.parametrize(
    ("pair", "measures"),
    [
        ("by-class", {"class_accuracy"}),
        ("by-map", {"mean_iou", "pixel_accuracy"}),
        ("by-text", {"clip_similarity", "r_precision", "r_precision_std", "objects", "places"}),
    ],
)
def test_conditions_are_judged_next_to_floor_ceiling_and_chance(
    inputs: Path, tmp_path: Path, pair: str, measures: set[str]
) -> None:
    metrics = measured(inputs, tmp_path, pair)
    found = metrics.agreement
    assert found is not None
    assert found.num_images == metrics.num_samples == 20
    assert found.not_measured is None
    for name in SETS:
        own = getattr(found, name).plain()
        # Whether a caption states a boat, a colour or an adjective depends on the scenes.
        assert measures <= set(own) <= measures | {"colours", "adjectives"}
        assert all(-1 <= value <= 1 for value in own.values())
    assert (found.num_candidates == 24) == (pair == "by-text")
    assert metrics.train_images is not None
    assert metrics.train_images.coverage_clip is not None
    assert metrics.unquantised_samples is metrics.test_images is None
    assert len(metrics.measured.protocol["judges"]) == 16
    assert metrics.measured.protocol["clip"] == Clip.read_id(inputs / "clip")


def test_samples_are_shown_with_the_test_splits_conditions(inputs: Path, tmp_path: Path) -> None:
    measured(inputs, tmp_path / "text", "by-text", None)
    test, chosen = ImageSplit.open(inputs / "dataset", "test", 16), some(24, 20, 0, "test images").tolist()
    assert chosen != list(range(20))
    rows = read_table(tmp_path / "text" / "prior" / "samples.parquet", SAMPLES).to_pylist()
    assert [row["caption"] for row in rows] == [test.captions[row][0] for row in chosen]
    assert {(row["label"], row["label_map"]) for row in rows} == {(-1, None)}
    measured(inputs, tmp_path / "map", "by-map", None)
    maps = LabelMaps.open(inputs / "dataset", "test", 16).get(chosen)
    rows = read_table(tmp_path / "map" / "prior" / "samples.parquet", SAMPLES).to_pylist()
    drawn = [decode_png(row["label_map"]).astype(int) - 1 for row in rows]
    assert [one.tolist() for one in drawn] == maps.tolist()


def test_captions_of_the_test_split_are_used_nowhere_in_training(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    before: list[str] = []
    encode, draw = ClipText.encode, measure_prior._draw
    monkeypatch.setattr(ClipText, "encode", lambda self, texts: encoded.extend(texts) or encode(self, texts))
    monkeypatch.setattr(measure_prior, "_draw", lambda own: before.extend(encoded) or draw(own))
    measured(inputs, tmp_path, "by-text", None)
    texts = {
        name: {text for own in ImageSplit.open(inputs / "dataset", name, 16).captions for text in own}
        for name in ("train", "test")
    }
    assert set(before) - {""} == texts["train"]
    assert set(encoded) & (texts["test"] - texts["train"]), "the samples are of the test split's"


def test_absent_judges_are_reasons_and_not_zeros(inputs: Path, tmp_path: Path) -> None:
    for pair, judges, reason in (
        ("by-map", "classifier", "the judges have no segmenter"),
        ("by-class", None, "no judges were given"),
        ("by-text", "classifier", "the dataset's captions are not those of the scenes"),
    ):
        found = measured(inputs, tmp_path / pair, pair, judges).agreement
        assert found is not None
        assert found.not_measured is not None
        assert set(found.not_measured.values()) == {reason}
        assert not set(found.not_measured) & set(found.samples.plain())
    by_text = PriorMetrics.read(tmp_path / "by-text" / "metrics.json").agreement
    assert by_text is not None
    assert by_text.samples.r_precision is not None, "this needs no judges"
    assert measured(inputs, tmp_path / "none", "by-nothing").agreement is None


def test_with_inception_there_is_a_fid_from_the_whole_training_split(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        "frechet": "fid", "kernel": "kid", "precision": "precision_inception", "recall": "recall_inception",
    }  # fmt: skip
    seen: list[int] = []

    def network(images: Tensor) -> Tensor:
        """Stands for the network, whose weights are not here."""
        seen.append(len(images))
        return F.adaptive_avg_pool2d(images[:, :2].float(), 2).flatten(1)

    made = Features(network, "a stand-in", 8, names, torch.device("cpu"))
    monkeypatch.setattr(measure_prior, "load_features", lambda *_: made)
    metrics = measured(inputs, tmp_path, "by-inception", None)
    for found in (metrics.samples, metrics.unigram_samples, metrics.reconstructions, metrics.train_images):
        assert found is not None
        assert found.fid is not None
        assert found.fid_train is not None
        assert found.num_train_images == 40
        assert found.density_inception is not None
        assert found.fd_clip is found.density_clip is None
    assert metrics.test_images is not None
    assert metrics.test_images.fid_train is not None
    assert metrics.test_images.fid == pytest.approx(0, abs=1e-6)
    assert sum(seen) >= 40 + 5 * 20


def test_completions_are_measured_and_shown(inputs: Path, tmp_path: Path) -> None:
    metrics = measured(inputs, tmp_path, "by-class")
    assert metrics.completion is not None
    assert set(metrics.completion) == {"lower_half", "upper_half", "inner_square"}
    for found in metrics.completion.values():
        assert found.num_images == 10
        assert found.reconstructions.psnr > 0
        assert found.samples.clip_distance is not None
        assert found.samples.distances.fd_clip is not None
    assert metrics.completion["inner_square"].hole_share == 0.25
    assert metrics.completion["lower_half"].reconstructions.distances == (
        metrics.completion["upper_half"].reconstructions.distances
    )
    rows = read_table(tmp_path / "prior" / "completions.parquet", COMPLETIONS).to_pylist()
    test = ImageSplit.open(inputs / "dataset", "test", 16)
    completed = some(24, 20, 0, "test images")[some(20, 10, 0, "completed")][
        some(10, 4, 0, "completions shown")
    ]
    assert [(row["image_id"], row["hole"]) for row in rows] == [
        (test.ids[at], hole) for hole in ("lower_half", "upper_half", "inner_square") for at in completed
    ]
    for row in rows:
        assert len(row["completions"]) == 5
        hidden = decode_png(row["mask"]) > 0
        pictures = torch.stack([torch.from_numpy(decode_png(one)) for one in row["completions"]])
        assert pictures.shape == (5, 16, 16, 3)
        assert 0 < hidden.mean() < 1
        assert row["label_name"] == test.class_names[row["label"]]
    at = test.ids.index(rows[1]["image_id"])
    assert decode_png(rows[1]["original"]).tolist() == test.images(at, at + 1)[0].permute(1, 2, 0).tolist()


def test_no_more_images_are_completed_than_the_params_permit(inputs: Path, tmp_path: Path) -> None:
    metrics = measured(inputs, tmp_path, "completes-few", None)
    assert metrics.completion is not None
    assert {found.num_images for found in metrics.completion.values()} == {8}
    flow = {
        **SHARED,
        "kind": "flow",
        "tokenizer": "tokenizer",
        **PRIORS["flow"].example(),
        "max_completed": 8,
    }
    with pytest.raises(ParamsError, match="max_completed: the prior flow cannot be given known tokens"):
        validate(flow, "prior", PRIORS["flow"].Params)


def test_the_cost_sidecar_has_sampling_and_evaluations(inputs: Path, tmp_path: Path) -> None:
    measured(inputs, tmp_path, "by-class", None)
    cost = json.loads((tmp_path / "prior.cost.json").read_text())
    assert cost["network_evaluations_per_image"] == 2, "with and without the condition"
    assert cost["sampling_batch"] in (1, 4, 16, 20)
    assert 0 < cost["sampling_seconds_per_image"] <= cost["sampling_seconds_per_image_batch_1"]
    assert cost["measuring_seconds"] > 0
    content = (tmp_path / "metrics.json").read_text()
    assert "second" not in content
    assert "evaluations" not in content


@pytest.mark.parametrize(
    ("pair", "judges", "data", "message"),
    [
        ("by-text", None, "without/dataset", "needs a caption on every train image\n"),
        ("by-map", None, "without/dataset", "needs a label map on every train image\n"),
        ("long-text", None, "dataset", "text.max_tokens is more than CLIP"),
        ("by-class", "foreign", "dataset", "the judges were not trained on this dataset: other classes"),
        ("by-class", "nothing", "dataset", "nothing does not exist"),
    ],
)
def test_what_the_data_lack_is_refused_before_the_first_step(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: str, judges: str | None, data: str,
    message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("vqpipe.priors.measure_prior.train_prior", lambda *_, **__: pytest.fail("a step"))
    result = run(inputs, tmp_path, pair, judges, data)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not (tmp_path / "prior").exists()
