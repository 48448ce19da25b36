"""Rows are told apart by how their inputs are made, not by last digits that differ between processors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from vqpipe.artifacts.publish import publish_folder, tree_digest
from vqpipe.artifacts.run import stage_run
from vqpipe.artifacts.spec import FolderSpec
from vqpipe.boards.recipe import given, recipe
from vqpipe.errors import ArtifactError

pytestmark = pytest.mark.fast

DATA = FolderSpec("dataset", 1, stage="dataset", required=("a.txt",))
NET = FolderSpec("clip", 1, stage="clip", required=("a.txt",))
CODES = FolderSpec("codes", 1, stage="codes", required=("a.txt",))


def make(spec: FolderSpec, text: str, *inputs: tuple[Path, FolderSpec], **params: Any) -> Path:
    path = Path(spec.stage)
    if path.exists():
        shutil.rmtree(path)
    with (
        stage_run(spec.stage, params, inputs, [(path, spec)]) as run,
        publish_folder(run.staged(path), spec, {}) as folder,
    ):
        (folder / "a.txt").write_text(text)
    return path


def store(data: str = "pictures", fit: str = "1.0000001", codes: str = "2.0000001", steps: int = 5) -> Path:
    """Data, a net fitted on them, and codes made by the net."""
    dataset = make(DATA, data, seed=0)
    net = make(NET, fit, (dataset, DATA), steps=steps)
    return make(CODES, codes, (net, NET), num_codes=4)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_other_last_digits_of_the_same_recipe_are_the_same_inputs() -> None:
    first = store()
    content, made_from = tree_digest(first), recipe(first)
    again = store(fit="1.0000002", codes="2.0000002")
    assert tree_digest(again) != content
    assert recipe(again) == made_from
    assert recipe(Path("dataset")) == tree_digest(Path("dataset")), "data are named by their content"


@pytest.mark.parametrize("change", [{"data": "others"}, {"steps": 6}])
def test_what_lies_two_stages_before_tells_inputs_apart(change: dict[str, Any]) -> None:
    before = recipe(store())
    assert recipe(store(**change)) != before


def test_content_that_its_lineage_does_not_describe_is_named_by_its_digest() -> None:
    codes = store()
    made_from = recipe(codes)
    (codes / "a.txt").write_text("by hand")
    (codes / "manifest.json").unlink()
    assert recipe(codes) == tree_digest(codes) != made_from
    (codes.parent / "codes.lineage.json").unlink()
    assert recipe(codes) == tree_digest(codes), "as an imported codebook"


def test_an_input_that_was_replaced_since_is_named_by_the_digest_that_was_read() -> None:
    codes, net = store(), Path("clip")
    digest = tree_digest(net)
    make(NET, "refitted", (Path("dataset"), DATA), steps=7)
    found = recipe(codes)
    assert isinstance(found, dict)
    assert found["inputs"] == [["clip", digest]]


def test_stage_params_and_the_order_of_inputs_count() -> None:
    codes = store()
    base = given("row", {"row": "vq"}, [Path("clip"), codes])
    assert base == given("row", {"row": "vq"}, [Path("clip"), codes])
    others = [
        given("generation", {"row": "vq"}, [Path("clip"), codes]),
        given("row", {"row": "lc"}, [Path("clip"), codes]),
        given("row", {"row": "vq"}, [codes, Path("clip")]),
    ]
    assert len({base, *others}) == 4


def test_a_param_that_its_stage_no_longer_has_changes_no_row() -> None:
    patches = FolderSpec("patches", 2, stage="patches", required=("a.txt",))
    dataset = make(DATA, "pictures", seed=0)
    before = recipe(make(patches, "vectors", (dataset, DATA), grid=8, max_bad_fraction=0.01))
    assert recipe(make(patches, "vectors", (dataset, DATA), grid=8)) == before
    assert recipe(make(patches, "vectors", (dataset, DATA), grid=4)) != before


def test_a_damaged_lineage_is_refused() -> None:
    codes = store()
    sidecar = codes.parent / "codes.lineage.json"
    sidecar.write_text(sidecar.read_text().replace("codes", "words"))
    with pytest.raises(ArtifactError):
        given("row", {"row": "vq"}, [codes])
