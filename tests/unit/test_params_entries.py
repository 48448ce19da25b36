"""The commands that messages advise for a missing artifact: they exist, and make it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.dvcfile import read_stages
from vqpipe.artifacts.lineage import Lineage, misfit
from vqpipe.artifacts.remedies import all_specs
from vqpipe.artifacts.spec import FolderSpec, missing
from vqpipe.library import hub, priors, tasks
from vqpipe.library.places import Place
from vqpipe.params.entries import entries_of, repro_command

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("place", [hub.PLACE, priors.PLACE, tasks.PLACE], ids=lambda place: place.what)
def test_the_command_for_a_tokenizer_prior_or_task_is_a_stage_that_makes_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    stages, names = read_stages(ROOT), entries_of(place.what)
    assert names
    for name in names:
        for given in (name, place.folder / name):
            run = place.run(given)
            assert run is not None
            stage = run.removeprefix("dvc repro ")
            assert (place.folder / name).as_posix() in stages[stage].outs
    assert place.run("no-entry") is place.run(Path("elsewhere") / names[0]) is None


def test_the_command_for_any_missing_folder_is_a_stage_or_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    stages = read_stages(ROOT)
    for spec in all_specs().values():
        if isinstance(spec, FolderSpec) and not spec.stage.startswith("vqpipe "):
            names = entries_of(spec.stage)
            run = repro_command(spec.stage, names[0] if names else "any")
            assert run is not None
            assert run.removeprefix("dvc repro ") in stages, spec.name
            if names:
                message = str(missing(Path("artifacts") / spec.stage / "no-entry", spec))
                assert "run:" not in message
                assert f"choices:  {names[0]}" in message


def test_the_command_for_an_artifact_that_does_not_fit_another_is_its_own_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    lineage = Lineage("tokens", {}, {}, {}, "", False, {})
    error = misfit(Path("artifacts/tokens/lc"), lineage, "dataset", "a", Path("artifacts/dataset"), "b")
    assert str(error).splitlines()[-1] == "  run:      dvc repro tokens@lc"
