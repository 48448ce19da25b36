"""`dvc repro` at pico scale in a repository of its own: what it leaves, and what it does not do twice."""

import json
import re

import pytest
from ruamel.yaml import YAML

from tests.pipeline.conftest import Checkout
from vqpipe.artifacts.publish import read_manifest, tree_digest

pytestmark = pytest.mark.pipeline
VARIANTS = ("vq", "vq+lg", "vqct", "lc")
PAIRED = ("vq-gpt", "vqct-gpt", "lc-gpt-map", "lc-vq_diffusion")
SOLVED = (
    "vq-masked_words", "vq+lg-masked_words", "vq+lg-retrieval", "vq+lg-relations", "vq-classification",
    "vq-classification-patches", "vq-captioning", "vq+lg-captioning", "vq-vqa", "vq-vqa-none", "vq-grounding",
    "vq-grounding-clip",
)  # fmt: skip
FOLDERS = [
    "dataset", "clip", "vocabulary", "codebook/words", "patches", "codebook/patches",
    *(f"{room}/{v}" for room in ("tokenizer", "tokens", "evaluation") for v in VARIANTS),
    *(f"task/{v}" for v in SOLVED), *(f"prior/{v}" for v in PAIRED), "judges",
]  # fmt: skip


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def test_every_artifact_is_published_with_its_lineage_and_cost(pico: Checkout) -> None:
    for name in FOLDERS:
        folder = pico.folder / "artifacts" / name
        assert read_manifest(folder).files, name
        lineage = json.loads(folder.with_name(folder.name + ".lineage.json").read_text())
        assert lineage["output"] == tree_digest(folder)
        assert json.loads(folder.with_name(folder.name + ".cost.json").read_text())["seconds"] > 0
    left = [
        p for p in (pico.folder / "artifacts").rglob("*") if ".partial-" in p.name or ".replaced-" in p.name
    ]
    assert not left
    scratch = pico.folder / ".scratch"
    assert not list(scratch.rglob("*.safetensors")), "checkpoints are removed when a stage succeeds"


def test_the_report_and_its_metrics_are_there(pico: Checkout) -> None:
    report = pico.folder / "artifacts/report"
    assert (report / "index.html").stat().st_size > 50_000
    metrics = json.loads((report / "metrics.json").read_text())
    assert set(VARIANTS) == set(metrics["tokenizer"])
    assert set(PAIRED) == set(metrics["prior"])
    assert set(SOLVED) == set(metrics["task"])
    assert {"clip", "graph", "judges"} <= set(metrics)


def test_a_second_repro_does_nothing(pico: Checkout) -> None:
    done = pico.run("dvc", "repro")
    assert not ran(done.stdout)
    assert "up to date" in done.stdout


def test_an_operator_makes_stale_the_stages_that_import_it(pico: Checkout) -> None:
    """In the real dvc.yaml; of prose, and of what is listed, `test_dvc` has a small one."""
    listings = {p.stem: p.read_text() for p in (pico.folder / "artifacts/code").iterdir()}
    files = {
        stage: {line.split(maxsplit=1)[1] for line in text.splitlines()} for stage, text in listings.items()
    }
    path = min(path for path in files["tokens"] - files["dataset"] if path.startswith("vqpipe/"))
    source = pico.folder / path
    before = source.read_text()
    try:
        source.write_text(before + "# changed\n")
        assert pico.run("stages.lock").returncode == 0
        source.write_text(before + "CHANGED = 1\n")
        done = pico.run("stages.lock", check=False)
        assert done.returncode == 1
        assert f"its code changed: {path}" in done.stdout
        pico.run("dvc", "repro", "-q", "code")
        found = {name.split("@")[0] for name in stale(pico)}
        assert found == {stage for stage, own in files.items() if path in own} - {"row", "generation"}
    finally:
        source.write_text(before)
        pico.run("dvc", "repro", "-q", "code")
    assert stale(pico) == []


def stale(checkout: Checkout) -> list[str]:
    """The stages that `dvc status` lists."""
    return re.findall(r"^(\S+):$", checkout.run("dvc", "status", "dvc.yaml").stdout, re.MULTILINE)


def test_one_variant_alone_reruns_and_metrics_diff_shows_it(pico: Checkout) -> None:
    path = pico.folder / "params.yaml"
    before = path.read_text()
    yaml = YAML()
    params = yaml.load(before)
    params["tokenizer"]["variants"]["lc"]["quantizer"]["beta"] = 0.5
    with path.open("w") as stream:
        yaml.dump(params, stream)
    dry = ran(pico.run("dvc", "repro", "--dry").stdout)
    assert dry[0] == "tokenizer@lc"
    done = ran(pico.run("dvc", "repro", "tokenizer@lc", "evaluate@lc").stdout)
    assert done == ["tokenizer@lc", "evaluate@lc"]
    diff = json.loads(pico.run("dvc", "metrics", "diff", "--json").stdout)
    assert any("tokenizer/lc" in name for name in diff)
    assert not [name for name in diff if "/vq." in name or "/vqct" in name]
    path.write_text(before)
    # The run cache still holds the first result, so going back costs no training.
    again = pico.run("dvc", "repro")
    assert not ran(again.stdout)
    assert pico.git("status", "--porcelain", "artifacts/metrics") == ""


def test_the_same_bytes_for_another_number_of_workers(pico: Checkout) -> None:
    outs = {
        "dataset": "dataset", "vocabulary": "vocabulary", "graph": "codebook/words", "patches": "patches",
        "cluster": "codebook/patches", "tokens@vq": "tokens/vq",
    }  # fmt: skip
    before = {stage: tree_digest(pico.folder / "artifacts" / out) for stage, out in outs.items()}
    pico.run("stages.run", *outs, fresh=True, VQPIPE_WORKERS="3")
    assert before == {stage: tree_digest(pico.folder / "artifacts" / out) for stage, out in outs.items()}


def test_training_again_gives_the_same_bytes(pico: Checkout) -> None:
    """Of `lc` and a prior on it: `test_without_dvc`; of `vq`: `test_resume`."""
    outs = {"clip": "clip", "tokenizer@vqct": "tokenizer/vqct", "prior@vqct-gpt": "prior/vqct-gpt"}
    before = {out: tree_digest(pico.folder / "artifacts" / out) for out in outs.values()}
    metrics = {p: p.read_bytes() for p in (pico.folder / "artifacts/metrics").rglob("*.json")}
    pico.run("stages.run", *outs, fresh=True)
    assert before == {out: tree_digest(pico.folder / "artifacts" / out) for out in outs.values()}
    assert {p: p.read_bytes() for p in metrics} == metrics


def test_plots_show_draws_the_declared_curves(pico: Checkout) -> None:
    pico.run("dvc", "plots", "show", "-o", "plots")
    page = (pico.folder / "plots/index.html").read_text()
    assert "curves/tokenizer/vq.csv" in page or "Tokenizer" in page


def test_an_experiment_sweeps_a_param(pico: Checkout) -> None:
    done = pico.run("dvc", "exp", "run", "-S", "cluster.num_iterations=3", "cluster")
    assert "cluster" in ran(done.stdout)
    pico.git("checkout", "-q", "--", ".")
    pico.run("dvc", "checkout", "-q")
