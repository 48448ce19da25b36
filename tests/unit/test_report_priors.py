"""The priors' part of the report: samples with what was asked for, completions, agreement with chance, cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_tree import PAIRS, PARAMS, filled, write_metrics, write_prior, write_tree
from test_report_page import check_valid, rows_of

from vqpipe.artifacts.lineage import COST
from vqpipe.artifacts.publish import publish_sealed, tree_digest
from vqpipe.evaluation.judges_measure import ClassAgreement, DetectionAgreement
from vqpipe.evaluation.judges_train import JudgesMetrics
from vqpipe.metrics.measured import Interval
from vqpipe.priors.measure import PriorMetrics
from vqpipe.report.about_results import _best_priors
from vqpipe.report.blocks import Absent
from vqpipe.report.build import Report, build_report
from vqpipe.report.names import NOT_MEASURED
from vqpipe.report.pictures import label_colours

SETS = ("samples", "unigram_samples", "another_condition", "reconstructions", "test_images")


def text_agreement() -> dict[str, Any]:
    values = dict(zip(SETS, (0.3, 0.1, 0.15, 0.35, 0.4), strict=True))
    found = {name: {"clip_similarity": value, "r_precision": value / 2} for name, value in values.items()}
    return {**found, "num_images": 500, "num_candidates": 100, "num_draws": 10}


def filled_hole(num_images: int = 500) -> dict[str, Any]:
    values = {"samples": 14.0, "unigram_samples": 10.0, "another_image": 11.0, "reconstructions": 25.0}
    found = {
        name: {"psnr": value, "l1": 0.1, "distances": {"fd_clip": 30 - value}}
        for name, value in values.items()
    }
    return {"lower_half": {**found, "num_images": num_images, "hole_share": 0.5}}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("priors")
    params = write_tree(root)
    text, maps = PAIRS
    write_prior(root, 0, text, captions=True, condition="text", agreement=text_agreement())
    write_prior(root, 1, maps, maps=True, holes=True, condition="label_map", completion=filled_hole())
    return build_report(root / "artifacts", params, PARAMS)


def test_the_first_sentence_ranks_no_priors_that_were_not_measured_alike() -> None:
    def measured(fd_clip: float, num_samples: int) -> PriorMetrics:
        known = {"measured": {"protocol": {"digest": f"of {num_samples}"}}, "samples": {"fd_clip": fd_clip}}
        return filled(PriorMetrics, {**known, "condition": "class", "num_samples": num_samples})

    same = list(_best_priors({"one": measured(3.0, 500), "two": measured(2.0, 500)}))
    assert "two, 2.00, and next one, 3.00" in same[0].text
    apart = list(_best_priors({"one": measured(3.0, 5000), "two": measured(9.0, 256)}))
    assert [type(block) for block in apart] == [Absent]
    assert "do not share one digest of the protocol" in apart[0].text
    assert "one: of 5000; two: of 256" in apart[0].text


def test_samples_are_shown_with_their_captions_and_maps(report: Report) -> None:
    check_valid(report.html)
    text, maps = PAIRS
    assert f"sample 3 of {text}, asked for boat 2" in report.html
    # Of the maps the second class is the larger one in none, and class 0 is not named.
    assert "label map that sample 1 was asked for: sea, &lt;sky&gt;" in report.html
    assert report.html.count("label map that sample") == PARAMS.num_samples
    assert f"sample 1 of {maps}" in report.html


def test_agreement_is_next_to_chance_and_to_what_the_judge_can_see(report: Report) -> None:
    rows = rows_of(report.html, "Samples and what was asked for")
    assert rows[0][1:] == [
        "measure", "samples", "floor|codes by frequency", "chance|another condition", "ceiling|reconstructions",
        "ceiling|test images",
    ]  # fmt: skip
    assert [row[0] for row in rows[1:]] == [PAIRS[0]] * 2
    assert rows[1][2:] == ["0.300", "0.100", "0.150", "0.350", "0.400"]
    assert rows[2][2:] == ["15.0", "5.0", "7.5", "17.5", "20.0"]
    assert "over 100 captions, 10 draws" in report.html


def test_the_judges_own_quality_is_next_to_chance(tmp_path: Path) -> None:
    params = write_tree(tmp_path)
    real, other = (Interval(mean=mean, low=mean - 0.02, high=mean + 0.02) for mean in (0.9, 0.1))
    content = {
        "classes": ClassAgreement(top1=real, top5=real, num_images=2000),
        "other_classes": ClassAgreement(top1=other, top5=other, num_images=2000), "num_images": 2000,
        "objects": filled(DetectionAgreement, {"precision": 0.5, "recall": 0.25}), "num_train_images": 4000,
    }  # fmt: skip
    write_metrics(tmp_path, "judges", filled(JudgesMetrics, content))
    html = build_report(tmp_path / "artifacts", params, PARAMS).html
    rows = rows_of(html, "How far the judges can be trusted")
    assert rows[1] == ["asked class, %", "90.0|88.0 to 92.0", "10.0|8.0 to 12.0"]
    assert [row[:2] for row in rows[2:]] == [
        ["boxes, precision at IoU 0.5, %", "50.0"],
        ["boxes, recall at IoU 0.5, %", "25.0"],
    ]
    assert "4,000 training images alone" in html


def test_completions_are_next_to_floor_chance_and_ceiling_and_shown(report: Report) -> None:
    rows = rows_of(report.html, "Completion of test images")
    assert rows[0][2:] == [
        "n|images", "measure", "samples", "floor|codes by frequency", "chance|another image's codes",
        "ceiling|reconstructions",
    ]  # fmt: skip
    assert [row[1:3] for row in rows[1:]] == [["lower half, 50%", "500"]] * 2
    assert rows[1][4:] == ["14.00", "10.00", "11.00", "25.00"]
    assert rows[2][4:] == ["16.00", "20.00", "–", "5.00"]
    assert "completion 2 of x1" in report.html
    assert "rows with another n" not in report.html


def test_completions_of_several_numbers_of_images_are_not_compared_as_equal(tmp_path: Path) -> None:
    params = write_tree(tmp_path)
    for place, (pair, count) in enumerate(zip(PAIRS, (128, 100), strict=True)):
        write_prior(tmp_path, place, pair, holes=True, completion=filled_hole(count))
    html = build_report(tmp_path / "artifacts", params, PARAMS).html
    rows = rows_of(html, "Completion of test images")
    assert [row[2] for row in rows[1:]] == ["128", "128", "100", "100"]
    assert "rows with another n do not compare" in html
    assert "of n whole images from the n true ones" in html


def test_the_cost_of_sampling_is_in_milliseconds_and_absent_where_it_was_not_measured(tmp_path: Path) -> None:
    params = write_tree(tmp_path)
    folder = tmp_path / "artifacts/prior" / PAIRS[0]
    cost = {
        "stage": "prior",
        "seconds": 1.0,
        "peak_memory_bytes": 1,
        "cores": 2,
        "output": tree_digest(folder),
    }
    own = {"sampling_seconds_per_image": 0.0125, "network_evaluations_per_image": 256.0}
    publish_sealed(folder.with_name(f"{PAIRS[0]}{COST}"), cost | own)
    rows = rows_of(build_report(tmp_path / "artifacts", params, PARAMS).html, "Training runs and their cost")
    at = [head.split("|")[-1] for head in rows[0]]
    found = {row[0]: row for row in rows[1:]}
    assert found[PAIRS[0]][at.index("ms an image, best batch")] == "12.5"
    assert found[PAIRS[0]][at.index("an image")] == "256"
    assert found[PAIRS[1]][at.index("an image")] == NOT_MEASURED


def test_no_two_of_the_first_classes_of_a_map_have_one_colour_and_none_is_white() -> None:
    colours = label_colours(np.arange(64, dtype=np.uint8)[None])[0]
    assert len({tuple(colour) for colour in colours.tolist()}) == 64
    assert colours[0].tolist() == [255, 255, 255]
    apart = np.abs(colours[1:, None].astype(int) - colours[None, 1:].astype(int)).sum(-1)
    assert apart[~np.eye(63, dtype=bool)].min() > 60


def test_priors_without_known_tokens_have_no_completions(tmp_path: Path) -> None:
    html = build_report(tmp_path / "artifacts", write_tree(tmp_path), PARAMS).html
    assert "Completions are absent" in html
    assert not re.search(r"Completion of test images", html)
