"""The prior stage: outputs and their specs, byte-identical re-runs, loading, messages."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

import vqpipe.priors as priors
from stages.prior import app
from stages.tokens import app as tokens_app
from tests.tiny import CLASSES, write_dataset, write_tiny_clip, write_tokenizer
from tests.toy_priors import PLACES
from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.prior import COMPLETIONS, NEAREST, PRIOR, SAMPLES
from vqpipe.artifacts.tables import read_table
from vqpipe.data.images import decode_png
from vqpipe.data.loader import ImageSplit, to_uint8
from vqpipe.errors import MismatchError
from vqpipe.library.prior_export import export_prior
from vqpipe.library.priors import ImagePrior
from vqpipe.metrics.distances import load_features
from vqpipe.priors import PRIORS, measure_prior
from vqpipe.priors.artifact import read_prior
from vqpipe.priors.contract import Condition
from vqpipe.priors.examples import some
from vqpipe.priors.measure import PriorMetrics, sample_batches
from vqpipe.priors.measure_distances import sample_distances
from vqpipe.priors.train import to_codes, to_latents
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.tokens import TokenSet
from vqpipe.vision.clip import Clip

NUM_IMAGES = {"train": 48, "validation": 6, "test": 24}
COMMON: dict[str, Any] = {
    "seed": 0, "condition": "class", "condition_drop": 0.1, "token_noise": 0.0, "map_scale": 1,
    "condition_as": "prefix",
    "model": {
        "num_layers": 2, "num_heads": 2, "width": 16, "block": {"kind": "gpt2"}, "learned_positions": True,
        "rotary_base": 100.0, "prefix_attention": "causal", "head_bias": False,
        "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1, "mlp": 0.1},
    },
    "training": {
        "num_steps": 40, "batch_size": 16, "learning_rate": 0.01, "betas": [0.9, 0.95], "weight_decay": 0.01,
        "warmup_fraction": 0.1, "final_lr_fraction": 0.0, "clip_grad_norm": 1.0, "ema_decay": 0.9,
        "precision": "fp32", "log_every": 10, "checkpoint_every": 20,
    },
    "sampling": {
        "temperature": 1.0, "top_k": 8, "top_p": 0.95, "guidance": 1.5, "guided_positions": None,
        "precision": "fp32", "batch": 16,
    },
    "num_samples": 20,
    "distances": {"features": "clip", "num_subsets": 2, "subset_images": 10, "num_neighbours": 3, "seed": 0},
}  # fmt: skip
OF_GPT = ("token_noise", "map_scale", "condition_as", "model", "sampling")
SHARED = {name: value for name, value in COMMON.items() if name not in OF_GPT}
"""What priors of all kinds take of `COMMON`."""
PAIRS = {
    "tiny-gpt": {"kind": "gpt", "tokenizer": "tokenizer"},
    "plain": {"kind": "gpt", "tokenizer": "tokenizer", "condition": "none",
              "sampling": {"top_k": None, "top_p": 1.0, "guidance": 1.0}},
    "undropped": {"kind": "gpt", "tokenizer": "tokenizer", "condition_drop": 0.0},
    "unigram": {"kind": "unigram", "tokenizer": "tokenizer", "training": {"learning_rate": 0.5},
                "sampling": {"temperature": 1.0, "top_k": 8, "top_p": 0.95, "guidance": 1.5}},
    "normal": {"kind": "normal", "tokenizer": "tokenizer", "condition": "none", "condition_drop": 0.0,
               "sampling": {"guidance": 1.0}},
    "other": {"kind": "gpt", "tokenizer": "larger"},
    "kindless": {"tokenizer": "tokenizer"},
    "asks-for-text": {"kind": "gpt", "tokenizer": "tokenizer", "condition": "text"},
    "misspelt": {"kind": "gpt", "tokenizer": "tokenizer", "model": {"num_layer": 3}},
}  # fmt: skip


def all_samples(prior: Any, condition: Condition, n: int) -> torch.Tensor:
    """All that is drawn for a prior's metrics, in one tensor."""
    return torch.cat([drawn for drawn, _ in sample_batches(prior, condition.rows, n)])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prior_stage")
    write_dataset(root, NUM_IMAGES)
    write_tokenizer(root / "tokenizer")
    write_tokenizer(root / "larger", num_codes=32)
    write_tiny_clip(root / "clip")
    with (root / "params.yaml").open("w") as stream:
        YAML().dump(
            {
                "prior": {
                    "common": {
                        **SHARED,
                        "gpt": {name: COMMON[name] for name in OF_GPT},
                    },
                    "pairs": PAIRS,
                },
                "tokens": {"batch_size": 8},
            },
            stream,
        )
    for name in ("tokenizer", "larger"):
        arguments = [
            f"--dataset={root / 'dataset'}",
            f"--tokenizer={root / name}",
            f"--params={root / 'params.yaml'}",
        ]
        result = CliRunner().invoke(tokens_app, [*arguments, f"--out={root / ('tokens_of_' + name)}"])
        assert result.exit_code == 0, result.output
    return root


def run(
    inputs: Path,
    out: Path,
    pair: str = "tiny-gpt",
    tokens: str | Path = "tokens_of_tokenizer",
    params: Path | None = None,
    dataset: str | Path = "dataset",
) -> Result:
    arguments = {
        "pair": pair, "dataset": inputs / dataset, "clip": inputs / "clip",
        "tokenizer": inputs / "tokenizer", "tokens": inputs / tokens,
        "params": params or inputs / "params.yaml", "out": out / "prior",
        "metrics": out / "metrics.json", "curves": out / "curves.csv",
    }  # fmt: skip
    return CliRunner().invoke(
        app, [text for name, path in arguments.items() for text in (f"--{name}", str(path))]
    )


@pytest.fixture(scope="module")
def done(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prior_out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_SCRATCH", str(out / "scratch"))
        result = run(inputs, out)
    assert result.exit_code == 0, result.output
    return out


def test_metrics_hold_bits_floors_and_distances(done: Path) -> None:
    metrics = json.loads((done / "metrics.json").read_text())
    assert metrics["bits_per_image"] == pytest.approx(16 * metrics["bits_per_token"])
    assert metrics["fixed_length_bits_per_token"] == 4
    assert metrics["bits_per_token"] < metrics["unigram_bits_per_token"] < 4.1
    for name in ("samples", "unigram_samples", "reconstructions"):
        expected = {"fd_clip", "kd_clip", "kd_clip_std"}
        expected |= {f"{name}_clip" for name in ("precision", "recall", "density", "coverage")}
        assert set(metrics[name]) == expected
        assert all(math.isfinite(v) for v in metrics[name].values())
    assert set(metrics["train_images"]) == expected
    assert set(metrics["completion"]) == {"lower_half"}, "what comes first in raster order is known"
    assert metrics["num_samples"] == metrics["measured"]["protocol"]["num_samples"] == 20
    assert metrics["measured"]["protocol"]["test_images"] == "drawn with seed 0"
    assert len(metrics["measured"]["images"]["digest"]) == 16
    assert metrics["weights"] == "ema"
    near = metrics["nearest_train"]
    assert near["num_compared"] == 20
    assert 0 < near["samples"]["same_codes"] <= 1
    assert near["rmse_ratio"] == pytest.approx(near["samples"]["rmse"] / near["reconstructions"]["rmse"])
    assert "second" not in (done / "metrics.json").read_text()


def test_the_folder_has_its_spec_and_speed_is_in_the_cost_sidecar(done: Path) -> None:
    manifest = read_manifest(done / "prior", PRIOR)
    assert manifest.facts["averaged"] is True
    assert manifest.facts["num_codes"] == [16]
    samples = read_table(done / "prior" / "samples.parquet", SAMPLES).to_pylist()
    assert len(samples) == 20
    assert {row["label_name"] for row in samples} == set(CLASSES)
    nearest = read_table(done / "prior" / "nearest.parquet", NEAREST).to_pylist()
    assert len(nearest) == 16
    assert all(row["rmse"] >= 0 for row in nearest)
    assert nearest[3]["sample"] == samples[3]["image"]
    assert decode_png(nearest[0]["train"]).shape == (
        16,
        16,
        3,
    )
    assert decode_png((done / "prior" / "samples.png").read_bytes()).shape == (3 * 18 - 2, 8 * 18 - 2, 3)
    cost = json.loads((done / "prior.cost.json").read_text())
    assert cost["sampled_tokens_per_second"] > 0
    assert cost["training_seconds"] > 0
    header = (done / "curves.csv").read_text().splitlines()
    assert header[0].startswith("step,")
    assert "main/bits_per_token" in header[0]
    assert len(header) == 5


def test_a_loaded_prior_draws_the_published_samples(inputs: Path, done: Path) -> None:
    prior = read_prior(done / "prior").prior
    rows = read_table(done / "prior" / "samples.parquet", SAMPLES).to_pylist()
    labels = torch.tensor([row["label"] for row in rows])
    drawn = all_samples(prior, Condition(labels=labels), len(labels))
    assert drawn.flatten(1).tolist() == [row["indices"] for row in rows]
    image = to_uint8(Tokenizer.from_pretrained(inputs / "tokenizer").decode(drawn[:1]))[0]
    published = torch.from_numpy(decode_png(rows[0]["image"])).permute(2, 0, 1)
    assert int((image.int() - published.int()).abs().max()) <= 1
    assert not prior.training
    assert TokenSet.open(inputs / "tokens_of_tokenizer").grid == prior.grid


def test_the_tools_find_and_check_what_the_artifact_was_made_with(
    inputs: Path, done: Path, tmp_path: Path
) -> None:
    prior = ImagePrior.from_pretrained(done / "prior", tokenizer=inputs / "tokenizer")
    assert prior.sample(2, classes=CLASSES[0]).shape == (2, 3, 16, 16)
    with pytest.raises(MismatchError, match="another tokenizer than the prior was trained with"):
        ImagePrior.from_pretrained(done / "prior", tokenizer=inputs / "larger")
    export_prior(prior, tmp_path / "shared", done / "metrics.json")
    card = (tmp_path / "shared/README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| samples.fd\\_clip |"))
    assert row.count("(") == row.count(")") > 0, "sources of measures are whole"
    assert "20 samples and as many test images" in card
    with torch.no_grad():
        next(prior.prior.parameters()).add_(1e-3)
    with pytest.raises(
        MismatchError, match=r"numbers of another prior\n.*found: +sha256 .*\n.*expected: sha256 "
    ):
        export_prior(prior, tmp_path / "other", done / "metrics.json")
    assert not (tmp_path / "other").exists()


def test_a_rerun_gives_the_same_bytes(inputs: Path, done: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    result = run(inputs, tmp_path)
    assert result.exit_code == 0, result.output
    first, second = (read_manifest(path / "prior", PRIOR) for path in (done, tmp_path))
    assert first == second
    for name in ("metrics.json", "curves.csv"):
        assert (done / name).read_bytes() == (tmp_path / name).read_bytes()


def test_no_number_is_of_one_class_of_a_split_that_is_in_the_order_of_its_classes(
    inputs: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    tokens = {name: TokenSet.open(inputs / "tokens_of_tokenizer").split(name) for name in NUM_IMAGES}
    for own in tokens.values():
        assert own.labels.tolist() == sorted(own.labels.tolist()), "in the order of its classes"
    seen: dict[str, list[int]] = {}

    def note(name: str, codes: torch.Tensor) -> None:
        """The classes of the test images with these codes."""
        same = (codes[:, None] == tokens["test"].indices).flatten(2).all(2)
        assert same.any(1).all(), "codes of test images"
        seen[name] = tokens["test"].labels[same.int().argmax(1)].tolist()

    def bits(prior: Any, batches: Any, codes: torch.Tensor, floor: Any) -> Any:
        note("floor of bits", codes)
        kept = {name: list(own) for name, own in batches.items()}
        for name, own in kept.items():
            seen[f"bits of {name}"] = [label for _, known in own for label in known.labels.tolist()]
        return split_bits(prior, kept, codes, floor)

    def copies(sets: Any, codes: Any, *rest: Any) -> Any:
        note("copies", codes["reconstructions"])
        return memorisation(sets, codes, *rest)

    def completed(fillings: Any, own: torch.Tensor, *rest: Any) -> Any:
        note("completion", own)
        return measure_completion(fillings, own, *rest)

    own, few = inputs / "params.yaml", tmp_path / "params.yaml"
    few.write_text(own.read_text().replace("num_samples: 20", "num_samples: 16"))
    split_bits, memorisation = measure_prior.split_bits, measure_prior.memorisation
    measure_completion = measure_prior.measure_completion
    for name, spy in (("split_bits", bits), ("memorisation", copies), ("measure_completion", completed)):
        monkeypatch.setattr(measure_prior, name, spy)
    monkeypatch.setattr(measure_prior, "NUM_COMPARED", 8)
    monkeypatch.setattr(measure_prior, "NUM_SHOWN", 6)
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    result = run(inputs, tmp_path, params=few)
    assert result.exit_code == 0, result.output
    assert {name: len(labels) for name, labels in seen.items()} == {
        "floor of bits": 16, "bits of test": 16, "bits of train": 8, "bits of validation": 6,
        "copies": 8, "completion": 8,
    }  # fmt: skip
    for name, labels in seen.items():
        assert set(labels) == {0, 1}, name
    table = read_table(tmp_path / "prior" / "completions.parquet", COMPLETIONS).to_pylist()
    assert {row["label"] for row in table} == {0, 1}
    assert len(read_table(tmp_path / "prior" / "samples.parquet", SAMPLES)) == 6


def test_an_unconditional_pair_runs_too(inputs: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    result = run(inputs, tmp_path, pair="plain")
    assert result.exit_code == 0, result.output
    rows = read_table(tmp_path / "prior" / "samples.parquet", SAMPLES).to_pylist()
    assert {(row["label"], row["label_name"]) for row in rows} == {(-1, "")}
    assert read_prior(tmp_path / "prior").prior.num_classes == 0


@pytest.fixture
def with_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the toys' lines to the table."""
    for kind, place in PLACES.items():
        monkeypatch.setitem(PRIORS._places, kind, place)
    monkeypatch.setattr(priors, "AnyPrior", PRIORS.params())


@pytest.mark.usefixtures("with_toys")
def test_a_prior_that_is_one_file_and_one_line_goes_through_the_stage(
    inputs: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    result = run(inputs, tmp_path, pair="unigram")
    assert result.exit_code == 0, result.output
    metrics = PriorMetrics.read(tmp_path / "metrics.json")
    assert metrics.bits_per_token == pytest.approx(metrics.unigram_bits_per_token, abs=0.5)
    prior = read_prior(tmp_path / "prior").prior
    assert prior.kind == "unigram"
    rows = read_table(tmp_path / "prior" / "samples.parquet", SAMPLES).to_pylist()
    condition = Condition(labels=torch.tensor([row["label"] for row in rows]))
    drawn = all_samples(prior, condition, len(rows))
    assert drawn.flatten(1).tolist() == [row["indices"] for row in rows]


@pytest.mark.usefixtures("with_toys")
def test_a_prior_over_latents_without_likelihood_goes_through_the_stage(
    inputs: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    result = run(inputs, tmp_path, pair="normal")
    assert result.exit_code == 0, result.output
    metrics = PriorMetrics.read(tmp_path / "metrics.json")
    assert metrics.bits_per_token is metrics.validation is None
    assert metrics.samples.fd_clip is not None
    assert metrics.unquantised_samples is not None
    assert metrics.unquantised_samples.fd_clip not in (None, metrics.samples.fd_clip)
    assert metrics.completion is metrics.agreement is None
    assert not (tmp_path / "prior" / "completions.parquet").exists()
    prior, tokenizer = read_prior(tmp_path / "prior").prior, Tokenizer.from_pretrained(inputs / "tokenizer")
    assert prior.space.latent_channels == tokenizer.config.quantizer.dim
    latents = all_samples(prior, Condition(), 20)
    assert latents.shape == (20, prior.space.latent_channels, *prior.space.grid)
    rows = read_table(tmp_path / "prior" / "samples.parquet", SAMPLES).to_pylist()
    assert to_codes(prior, latents, tokenizer).flatten(1).tolist() == [row["indices"] for row in rows]
    features = load_features(prior.config.distances, Clip.load(inputs / "clip"), torch.device("cpu"))
    with torch.no_grad():
        made = to_uint8(tokenizer.decode_latent(to_latents(prior, latents, tokenizer)))
    rows = some(24, 20, 0, "test images")
    test = ImageSplit.open(inputs / "dataset", "test", 16).gather(rows, None, "centre", False)
    expected = sample_distances(
        features.extract(made), features.extract(test), features, prior.config.distances
    )
    assert metrics.unquantised_samples.plain() == pytest.approx(expected.plain(), rel=1e-4, abs=1e-6)


def test_a_test_split_of_few_images_is_refused_before_the_training(
    inputs: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    write_dataset(tmp_path, {"train": 16, "validation": 2, "test": 3})
    done = CliRunner().invoke(tokens_app, [
        f"--dataset={tmp_path / 'dataset'}", f"--tokenizer={inputs / 'tokenizer'}", f"--out={tmp_path / 'tokens'}",
        f"--params={inputs / 'params.yaml'}",
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    result = run(inputs, tmp_path, tokens=tmp_path / "tokens", dataset=tmp_path / "dataset")
    assert result.exit_code == 2, result.output
    assert "the split test has too few images" in result.output
    assert not (tmp_path / "scratch").exists() or not list((tmp_path / "scratch").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pair": "misspelt"},
            "prior.pairs.misspelt.model.num_layer is not a field; did you mean num_layers?",
        ),
        (
            {"pair": "asks-for-text"},
            "prior.pairs.asks-for-text: condition: text needs text, the params of its encoder",
        ),
        ({"pair": "undropped"}, "guidance other than 1 needs"),
        ({"pair": "tiny"}, "did you mean tiny-gpt?"),
        ({"pair": "kindless"}, "an entry without its kind, in prior.pairs"),
        ({"tokens": "tokens_of_larger"}, "was made from another tokenizer than"),
        ({"tokens": "nothing"}, "nothing does not exist"),
        ({"pair": "other"}, "prior.pairs.other is of the tokenizer larger, and another one is given"),
    ],
)
def test_mistakes_exit_2_with_a_message(
    inputs: Path, tmp_path: Path, monkeypatch: Any, changes: dict[str, str], message: str
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    result = run(inputs, tmp_path, **changes)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not (tmp_path / "prior").exists()
    assert not (tmp_path / "metrics.json").exists()
