"""What belongs together: outputs appear together, inputs are named by content, a set that does not fit is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from vqpipe.artifacts.inputs_outputs import CURVES, JSON, Output
from vqpipe.artifacts.lineage import need_own_lineage, read_lineage
from vqpipe.artifacts.publish import publish_folder, publish_text, tree_digest
from vqpipe.artifacts.run import stage_run
from vqpipe.artifacts.seal import parse_sealed
from vqpipe.artifacts.spec import FolderSpec
from vqpipe.errors import ArtifactError, MismatchError

pytestmark = pytest.mark.slow

SEED = FolderSpec("seed", 1, stage="seed", required=("a.txt",))
TREE = FolderSpec("tree", 1, stage="tree", required=("a.txt",))
FRUIT = FolderSpec("fruit", 1, stage="fruit", required=("a.txt",))


def make(
    path: Path,
    spec: FolderSpec,
    text: str,
    *inputs: tuple[Path, FolderSpec],
    mixed: bool = False,
    roles: dict[Path, str | None] | None = None,
) -> Path:
    """Run a stage that makes one folder of the inputs, its metrics and its curves."""
    metrics, curves = path.with_suffix(".json"), path.with_suffix(".csv")
    outputs: list[Output] = [(path, spec), (metrics, JSON), (curves, CURVES)]
    with stage_run(spec.stage, {}, inputs, outputs, mixed=mixed, roles=roles) as run:
        with publish_folder(run.staged(path), spec, {}) as folder:
            (folder / "a.txt").write_text(text)
        publish_text(run.staged(curves), f"step,x\n1,{len(text)}\n")
        run.metrics(metrics, {"x": len(text)})
    return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A seed, a tree that grew from it, and a fruit of both; and the same of another seed under `other`."""
    monkeypatch.chdir(tmp_path)
    for root, text in (("own", "one"), ("other", "another")):
        seed = make(Path(root, "seed"), SEED, text)
        tree = make(Path(root, "tree"), TREE, f"{text} tree", (seed, SEED))
        make(Path(root, "fruit"), FRUIT, f"{text} fruit", (seed, SEED), (tree, TREE))
    return tmp_path


def swap(name: str, *endings: str) -> None:
    """Put the other seed's artifact in the place of ours; `endings` of the sidecars that come with it."""
    shutil.rmtree(Path("own", name))
    shutil.copytree(Path("other", name), Path("own", name))
    for ending in endings:
        shutil.copy(Path("other", name + ending), Path("own", name + ending))


def test_lineage_names_inputs_by_content_and_spec(store: Path) -> None:
    lineage = read_lineage(Path("own/fruit"))
    assert lineage is not None
    assert lineage.specs == {"own/seed": "seed", "own/tree": "tree"}
    assert lineage.inputs == {f"own/{name}": tree_digest(Path("own", name)) for name in ("seed", "tree")}
    assert lineage.output == tree_digest(Path("own/fruit"))


@pytest.mark.parametrize("name", ["seed", "tree"])
def test_an_artifact_that_was_replaced_by_hand_is_refused(store: Path, name: str) -> None:
    swap(name)
    with pytest.raises(ArtifactError, match=f"own/{name} does not match its lineage"):
        make(Path("own/fruit"), FRUIT, "x", (Path("own/seed"), SEED), (Path("own/tree"), TREE))
    assert (Path("own/fruit/a.txt")).read_text() == "one fruit"


def test_an_input_made_from_another_version_of_another_input_is_refused(store: Path) -> None:
    swap("tree", ".lineage.json")
    inputs = (Path("own/seed"), SEED), (Path("own/tree"), TREE)
    with pytest.raises(MismatchError, match="own/tree was made from another seed than own/seed") as told:
        make(Path("own/fruit"), FRUIT, "x", *inputs)
    assert "--mixed" in str(told.value)
    assert "dvc repro tree" in str(told.value)
    make(Path("own/fruit"), FRUIT, "mixed", *inputs, mixed=True)
    assert (Path("own/fruit/a.txt")).read_text() == "mixed"


def test_inputs_of_two_versions_of_a_third_are_refused(store: Path) -> None:
    make(Path("own/leaf"), FRUIT, "x", (Path("other/seed"), SEED))
    with pytest.raises(MismatchError, match="were made from two different versions of seed"):
        make(Path("own/pie"), SEED, "x", (Path("own/tree"), TREE), (Path("own/leaf"), FRUIT))


def test_what_was_mixed_on_purpose_is_not_refused_later(store: Path) -> None:
    swap("tree", ".lineage.json")
    inputs = (Path("own/seed"), SEED), (Path("own/tree"), TREE)
    make(Path("own/fruit"), FRUIT, "mixed", *inputs, mixed=True)
    make(Path("own/pie"), SEED, "x", (Path("own/seed"), SEED), (Path("own/fruit"), FRUIT))


def test_an_input_with_equal_content_fits_whatever_it_was_made_from(store: Path) -> None:
    """Early cut-off: a seed of another stage run with equal bytes leaves the tree as good as it was."""
    make(Path("own/seed"), SEED, "one", (Path("other/fruit"), FRUIT))
    make(Path("own/fruit"), FRUIT, "again", (Path("own/seed"), SEED), (Path("own/tree"), TREE))


def test_an_artifact_without_a_lineage_fits_anything(store: Path) -> None:
    swap("tree")
    Path("own/tree.lineage.json").unlink()
    make(Path("own/fruit"), FRUIT, "x", (Path("own/seed"), SEED), (Path("own/tree"), TREE))


def test_a_damaged_lineage_is_refused(store: Path) -> None:
    sidecar = Path("own/tree.lineage.json")
    sidecar.write_text(sidecar.read_text().replace("own/seed", "own/sead"))
    with pytest.raises(ArtifactError, match=r"tree.lineage.json is damaged"):
        need_own_lineage(Path("own/tree"))


def test_the_seal_of_the_metrics_names_the_artifact_and_the_curves(store: Path) -> None:
    content, named = parse_sealed(Path("own/fruit.json").read_bytes(), "m")
    assert content == {"x": len("one fruit")}
    assert named == {
        "fruit": tree_digest(Path("own/fruit"))[:16], "curves": tree_digest(Path("own/fruit.csv"))[:16]
    }  # fmt: skip


def test_nothing_is_seen_of_a_stage_that_fails_after_its_writing(store: Path) -> None:
    before = {path: path.stat().st_ino for path in Path("own").iterdir()}
    outputs: list[Output] = [(Path("own/fruit"), FRUIT), (Path("own/fruit.json"), JSON)]

    def fail() -> None:
        with stage_run("fruit", {}, [(Path("own/seed"), SEED)], outputs) as run:
            with publish_folder(run.staged(Path("own/fruit")), FRUIT, {}) as folder:
                (folder / "a.txt").write_text("new")
            run.metrics(Path("own/fruit.json"), {"x": 0})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert {path: path.stat().st_ino for path in Path("own").iterdir()} == before


def test_an_input_that_is_replaced_during_the_run_is_noticed(store: Path) -> None:
    def work() -> None:
        with stage_run("fruit", {}, [(Path("own/seed"), SEED)], [(Path("own/pie"), FRUIT)]) as run:
            make(Path("own/seed"), SEED, "replaced")
            with publish_folder(run.staged(Path("own/pie")), FRUIT, {}) as folder:
                (folder / "a.txt").write_text("new")

    with pytest.raises(ArtifactError, match="own/seed was replaced while fruit read it"):
        work()
    assert not [path for path in Path("own").iterdir() if "pie" in path.name]


def test_scratch_goes_only_after_all_outputs_are_there(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    seen: list[tuple[str, bool]] = []
    replace = os.replace
    kept: list[Path] = []

    def note(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        replace(source, target)
        seen.append((Path(target).name, bool(kept) and kept[0].is_dir()))

    with stage_run("graph", {}, [(Path("own/seed"), SEED)], [(Path("own/pie"), FRUIT)]) as run:
        kept.append(run.scratch())
        with publish_folder(run.staged(Path("own/pie")), FRUIT, {}) as folder:
            (folder / "a.txt").write_text("new")
        run.metrics(Path("own/pie.json"), {"x": 0})
        monkeypatch.setattr(os, "replace", note)
    names = [name for name, _ in seen if not name.startswith(".")]
    assert names[-4:] == ["pie", "pie.json", "pie.lineage.json", "pie.cost.json"]
    assert all(there for _, there in seen)
    assert not kept[0].exists()


def test_leftovers_of_a_dead_run_of_the_stage_are_removed(store: Path) -> None:
    dead = 2**22 + 1  # above the largest number that a process has on Linux
    for name in (
        f".pie.staged-{dead}",
        f"..pie.staged-{dead}.partial-{dead}",
        f".pie.lineage.json.staged-{dead}",
    ):
        Path("own", name).mkdir()
    for name in (f".other.staged-{dead}", f".pie.staged-{os.getppid()}"):
        Path("own", name).mkdir()
    make(Path("own/pie"), FRUIT, "x", (Path("own/seed"), SEED))
    hidden = sorted(path.name for path in Path("own").iterdir() if path.name.startswith("."))
    assert hidden == sorted([f".other.staged-{dead}", f".pie.staged-{os.getppid()}"])


def test_an_input_of_another_role_need_not_fit(store: Path) -> None:
    """Captions of one dataset artifact and images of another; a codebook that is foreign on purpose."""
    inputs = (Path("other/seed"), SEED), (Path("own/tree"), TREE)
    with pytest.raises(MismatchError, match="own/tree was made from another seed"):
        make(Path("own/pie"), FRUIT, "x", *inputs)
    make(Path("own/pie"), FRUIT, "x", *inputs, roles={Path("other/seed"): "corpus"})
    lineage = read_lineage(Path("own/pie"))
    assert lineage is not None
    assert lineage.specs == {"other/seed": "corpus", "own/tree": "tree"}
    make(Path("own/pie"), FRUIT, "x", *inputs, roles={Path("own/tree"): None})
    make(Path("own/pie"), FRUIT, "x", *inputs, roles={Path("other/seed"): "corpus"})
    again = (Path("own/pie"), FRUIT), (Path("other/tree"), TREE)
    with pytest.raises(MismatchError, match="own/pie was made from another corpus than other/tree"):
        make(Path("own/cake"), SEED, "x", *again, roles={Path("other/tree"): "corpus"})


def test_an_input_that_is_replaced_by_equal_content_is_no_fault(store: Path) -> None:
    with stage_run("fruit", {}, [(Path("own/seed"), SEED)], [(Path("own/pie"), FRUIT)]) as run:
        make(Path("own/seed"), SEED, "one")
        with publish_folder(run.staged(Path("own/pie")), FRUIT, {}) as folder:
            (folder / "a.txt").write_text("new")
    assert Path("own/pie/a.txt").read_text() == "new"


def test_inputs_outside_of_the_working_folder_keep_names_of_their_own(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "work").mkdir()
    monkeypatch.chdir(store / "work")
    make(Path("pie"), FRUIT, "x", (store / "own/seed", SEED), (store / "other/seed", SEED), mixed=True)
    lineage = read_lineage(Path("pie"))
    assert lineage is not None
    assert set(lineage.inputs) == {"own/seed", "other/seed"}
    Path("own").symlink_to(store / "own")
    make(Path("pie"), FRUIT, "x", (Path("own/seed"), SEED))
    lineage = read_lineage(Path("pie"))
    assert lineage is not None
    assert set(lineage.inputs) == {"own/seed"}


def test_an_output_that_is_a_link_stays_one(store: Path) -> None:
    target = store / "elsewhere"
    shutil.move("own/fruit", target)
    Path("own/fruit").symlink_to(target)
    make(Path("own/fruit"), FRUIT, "new", (Path("own/seed"), SEED))
    assert Path("own/fruit").is_symlink()
    assert (target / "a.txt").read_text() == "new"
    assert need_own_lineage(Path("own/fruit")) is not None
    assert not [path.name for path in store.iterdir() if path.name.startswith(".")]
