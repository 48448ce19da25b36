"""The report page: valid, self-contained, escaped, repeatable, and honest about what is absent."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import html5lib
import pytest
from report_tree import (
    HOSTILE,
    PAIRS,
    PARAMS,
    VARIANTS,
    evaluated,
    filled,
    write_metrics,
    write_params,
    write_prior,
    write_tree,
)

from vqpipe.artifacts.publish import publish_sealed, publish_text
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.data.build import DatasetMetrics
from vqpipe.errors import ArtifactError, ParamsError, counted
from vqpipe.report.about_codebooks import FIELDS
from vqpipe.report.about_data import _counts
from vqpipe.report.blocks import Text
from vqpipe.report.build import Report, build_report
from vqpipe.report.names import curve_label
from vqpipe.text.graph import GraphMetrics
from vqpipe.text.vocabulary import VocabularyMetrics
from vqpipe.vision.cluster import ClusterMetrics
from vqpipe.vision.patches import PatchesMetrics


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_tree(root)
    return root


@pytest.fixture(scope="module")
def report(tree: Path) -> Report:
    return build_report(tree / "artifacts", tree / "params.yaml", PARAMS)


def check_valid(html: str) -> Any:
    """Parse strictly (a parse error raises) and check what the parser does not: unique ids and links
    within the page.
    """
    document = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(html)
    ids = [element.get("id") for element in document.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    links = [element.get("href") for element in document.iter("a")]
    assert all(link[0] == "#" and link[1:] in ids for link in links)
    return document


def test_valid_html(report: Report) -> None:
    check_valid(report.html)


def test_self_contained(report: Report) -> None:
    document = check_valid(report.html)
    tags = {
        str(element.tag).rsplit("}", 1)[-1] for element in document.iter() if isinstance(element.tag, str)
    }
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    for element in document.iter():
        for name, value in element.attrib.items():
            if name.rsplit("}", 1)[-1] in ("src", "href", "srcset", "action", "data", "poster"):
                assert value.startswith(("data:image/png;base64,", "#"))
    style = document.find(".//style").text
    assert "url(" not in style
    assert "@import" not in style


def test_text_from_data_is_escaped(report: Report) -> None:
    document = check_valid(report.html)
    assert "<script" not in report.html
    assert not any(name.startswith("on") for element in document.iter() for name in element.attrib)
    captions = [element.text for element in document.iter("figcaption")]
    assert HOSTILE in captions
    assert any(HOSTILE in (image.get("alt") or "") for image in document.iter("img"))
    assert any(HOSTILE in (heading.text or "") for heading in document.iter("h5"))
    assert "49" not in "".join(caption for caption in captions if caption and "alert" in caption)


def test_equal_inputs_give_equal_bytes(tree: Path, report: Report) -> None:
    again = build_report(tree / "artifacts", tree / "params.yaml", PARAMS)
    assert again.html == report.html
    assert again.metrics == report.metrics


def test_no_path_of_the_machine(tree: Path, report: Report) -> None:
    assert str(tree) not in report.html


def test_every_picture_says_what_it_shows(report: Report) -> None:
    document = check_valid(report.html)
    images = list(document.iter("img"))
    assert len(images) > 60
    assert all(image.get("alt") and image.get("width") and image.get("height") for image in images)
    drawings = [element for element in document.iter() if str(element.tag).endswith("svg")]
    assert drawings
    assert all(element.get("role") == "img" and element.get("aria-label") for element in drawings)


def rows_of(html: str, title: str) -> list[list[str]]:
    document = check_valid(html)
    for figure in document.iter("figure"):
        caption = figure.find("figcaption")
        if figure.get("class") == "table" and caption is not None and caption.text == title:
            return [["|".join(cell.itertext()) for cell in row] for row in figure.iter("tr")]
    raise AssertionError(f"no table {title}")


def test_floors_and_reference_share_the_tokenizers_table(report: Report) -> None:
    floors = ["floor: mean colour of each grid cell", "floor: k-means on raw patches, K = 1,024"]
    distances = rows_of(report.html, "Distance of all reconstructions from all originals")
    assert [row[0] for row in distances] == [
        "tokenizer",
        *VARIANTS,
        *floors,
        "reference: half of train against the other half",
    ]
    rows = rows_of(report.html, "Quality of reconstructions, image by image")
    assert [row[0] for row in rows] == ["tokenizer", *VARIANTS, *floors]
    psnr = rows[0].index("PSNR|dB, \N{UPWARDS ARROW}")
    assert [row[psnr] for row in rows[1:]] == [
        "20.00|19.88 to 20.12",
        "21.00|20.88 to 21.12",
        "22.00|21.88 to 22.12",
        "18.00|17.88 to 18.12",
        "19.00|18.88 to 19.12",
    ]
    assert not any("LPIPS" in name or name.startswith("FID") for name in rows[0] + distances[0])


def first_section(report: Report) -> Any:
    return next(check_valid(report.html).iter("section"))


def told(report: Report) -> list[str]:
    """The paragraphs with which the page begins."""
    paths = ("p", "div[@class='beside']/div[1]/p")
    return ["".join(p.itertext()) for path in paths for p in first_section(report).findall(path)]


def test_the_page_begins_with_what_came_out(report: Report) -> None:
    assert first_section(report).get("id") == "results"
    first, second = told(report)
    assert first.startswith(
        "lc has the highest PSNR, 22.00 dB (21.88 to 22.12) at 640 bits per image; next is vqct with 21.00 dB (20.88 "
        "to 21.12) at 640 bits per image. Without a network, k-means on raw patches reaches 19.00 dB at 640 bits. One "
    )
    assert second.startswith(
        "FD-CLIP between samples and test images, lowest of each condition: lc-gpt, 36.00, and next vq-gpt, 40.00 "
        "(condition: class). 500 samples"
    )
    rows = rows_of(report.html, "Tokenizers")
    assert [row[0] for row in rows] == ["tokenizer", *VARIANTS]
    used = ["2 x 50.0|adjective, noun", "2 x 1,024", "640"]
    assert rows[2][1:] == ["21.00|20.88 to 21.12", "0.2667|0.2567 to 0.2767", "36.00", *used]
    beside = first_section(report).find("div[@class='beside']")
    assert [title.text for title in beside.iterfind("div/figure/figcaption")] == ["Tokenizers"]
    assert [title.text for title in beside.iterfind("div[@class='gallery']/h4")] == ["Reconstructions"]
    pictures = [str(image.get("alt")) for image in first_section(report).iter("img")]
    shared = PARAMS.num_reconstructions * (1 + len(VARIANTS))
    assert pictures[:2] == ["image random-0, original", "image random-1, original"]
    assert pictures[2] == "image random-0 as vq reconstructs it, PSNR 20.00 dB"
    assert pictures[shared] == "sample 1 of vq-gpt, asked for boat"
    assert len(pictures) == shared + 6 * len(PAIRS)


def test_the_first_priors_are_next_to_their_floor_and_to_how_they_were_judged(
    tree: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tree, tmp_path / "copy"))
    judged = {"samples": 0.2, "another_condition": 0.1, "test_images": 0.9, "reconstructions": 0.8}
    agreement = {"num_images": 64, **{name: {"class_accuracy": value} for name, value in judged.items()}}
    agreement["unigram_samples"] = {"class_accuracy": 0.05}
    kinds = {"samples": 5.0, "unigram_samples": 25.0, "train_images": 0.9}
    distances = {name: {"fd_clip": value, "kd_clip": 0.1} for name, value in kinds.items()}
    write_prior(copy, 0, "vq-gpt", agreement=agreement, **distances)
    write_prior(copy, 1, "lc-gpt", condition="label_map")
    found = made(copy)
    rows = rows_of(found.html, "Priors")
    assert rows[1] == ["vq-gpt", "class", "5.00", "25.00", "20.0|asked class, %", "10.0", "90.0"]
    assert rows[2] == ["lc-gpt", "label map", "36.00", "36.00", "–", "–", "–"]
    text = told(found)[1]
    assert "of each condition: vq-gpt, 5.00 (condition: class); lc-gpt, 36.00 (condition: label map)." in text
    assert "Random training images have 0.90. The label maps asked for are those of these test images" in text
    write_prior(copy, 1, "lc-gpt", condition="none", samples={"fid": 12.5, "kid": 0.1})
    assert (
        "FID between samples and test images, lowest of each condition: lc-gpt, 12.50 (no condition)"
        in told(made(copy))[1]
    )
    for part in ("prior", "metrics/prior"):
        shutil.rmtree(copy / "artifacts" / part)
    assert len(told(made(copy))) == 1


def test_the_first_sentence_ranks_nothing_that_cannot_be_compared(tree: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tree, tmp_path / "copy"))
    measured = made(copy).metrics["tokenizer"]["lc"]["measured"]
    measured["images"]["digest"] = "ffff"
    write_metrics(copy, "evaluate/lc", evaluated(2, measured=measured))
    assert told(made(copy))[0].startswith("These do not share one digest of the images")
    for variant in ("vqct", "lc"):
        shutil.rmtree(copy / f"artifacts/evaluation/{variant}")
        (copy / f"artifacts/metrics/evaluate/{variant}.json").unlink()
    book = evaluated(0).codes["code"]
    other = book.model_copy(update={"num_codes": 64, "utilisation": 0.5})
    books = {"first": book, "second": book, "third": other}
    write_metrics(copy, "evaluate/vq", evaluated(0, codes=books))
    alone = made(copy)
    assert told(alone)[0].startswith(
        "vq has a PSNR of 20.00 dB (19.88 to 20.12) at 640 bits per image. Without"
    )
    assert rows_of(alone.html, "Tokenizers")[1][4:6] == ["20.0 to 50.0|of 3 codebooks", "64 to 1,024"]


def test_utilisation_is_next_to_n_and_the_uniform_expectation(report: Report) -> None:
    rows = rows_of(report.html, "Use of the codes")
    names = [name.split("|")[0] for name in rows[0]]
    assert names[1:5] == ["K", "N", "utilisation", "uniform expectation"]
    assert rows[1][1:5] == ["1,024", "128,000", "20.0", "100.0"]
    assert [row[0] for row in rows[1:]] == ["vq", "vqct, adjective", "vqct, noun", "lc"]


def test_priors_are_next_to_floor_and_ceiling(report: Report) -> None:
    rows = rows_of(report.html, "How well the tokens are predicted")
    assert rows[1][:5] == ["vq-gpt", "8.000", "9.200", "13.0", "10.000"]
    rows = rows_of(report.html, "Samples, floor and ceiling")
    assert [row[0] for row in rows[1:4]] == [
        "vq-gpt",
        "floor: codes by frequency, vq",
        "ceiling: reconstructions, vq",
    ]
    assert {row[2] for row in rows[1:]} == {"500"}


def test_edges_by_count_and_by_surprise(report: Report) -> None:
    frequent = rows_of(report.html, "The 10 most frequent of 60 edges")
    assert frequent[0] == ["adjective", "noun", "count|in captions", "PMI|nats"]
    counts = [int(row[2]) for row in frequent[1:]]
    assert len(counts) == 10
    assert counts == sorted(counts, reverse=True)
    surprising = [row[3] for row in rows_of(report.html, "The 10 most surprising edges")[1:]]
    assert surprising[0] == "1.50"
    assert surprising == sorted(surprising, reverse=True)
    assert "at least 5 times" in report.html


def test_degrees_have_a_table_and_a_chart(report: Report) -> None:
    rows = rows_of(report.html, "Neighbours of the words")
    assert rows[0] == ["words", "mean", "quarter", "median", "three quarters", "90 %", "most"]
    assert rows[1] == ["adjectives", "4", "2", "4", "5.5", "7.2", "9"]
    assert "How many neighbours words have" in report.html
    assert "15 of 15 adjectives have an edge, the one with the most 4" in report.html
    shown = rows_of(report.html, "Modifying graph in numbers")
    assert not any(row[0].startswith("degree") for row in shown)


def test_metrics_and_curves_have_labels_of_words(report: Report) -> None:
    models = (VocabularyMetrics, GraphMetrics, PatchesMetrics, ClusterMetrics)
    fields = {field for model in models for field in model.model_fields} - {"degree"}
    assert fields == set(FIELDS)
    rows = dict(row[:2] for row in rows_of(report.html, "Modifying graph in numbers")[1:])
    assert rows["edges"] == "60"
    assert not re.search(r"<figcaption>[^<]*_[^<]*</figcaption>", report.html)
    assert curve_label("ae/commitment_noun") == "commitment loss, group noun"
    assert curve_label("disc/loss") == "discriminator: total loss"
    assert curve_label("ae/sample_entropy") == "sample entropy"


def test_the_k_means_objective_has_a_curve(tree: Path, report: Report) -> None:
    assert "k-means objective by iteration" in report.html
    assert "Empty clusters refilled over the run: 4." in report.html
    curve = tree / "artifacts/curves/cluster.csv"
    content = curve.read_text()
    try:
        curve.write_text("step,objective,empty,refilled\n1,0.9,0,0\n")  # random vectors: nothing was iterated
        assert "k-means objective" not in build_report(tree / "artifacts", tree / "params.yaml", PARAMS).html
    finally:
        curve.write_text(content)


def test_retrieval_is_next_to_chance(report: Report) -> None:
    rows = rows_of(report.html, "Image-text retrieval on the validation split")
    assert rows[1] == ["image to text, R@1", "31.0", "0.20", "155.0"]


def test_costs_are_those_of_the_outputs_that_are_here(tree: Path, report: Report) -> None:
    rows = {row[0]: row[1] for row in rows_of(report.html, "Cost of each output")}
    assert re.fullmatch(r"\d+\.\d", rows["dataset"])
    assert "Not measured in this checkout: clip, " in report.html
    cost = tree / "artifacts/dataset.cost.json"
    before = cost.read_text()
    try:
        publish_sealed(cost, {**read_sealed_json(cost), "output": "of another output"})
        stale = build_report(tree / "artifacts", tree / "params.yaml", PARAMS)
    finally:
        cost.write_text(before)
    assert "Cost: not measured in this checkout" in stale.html


def made(tree: Path) -> Report:
    return build_report(tree / "artifacts", tree / "params.yaml", PARAMS)


def test_the_digests_follow_the_protocol_and_rows_that_were_not_measured_alike_are_named(
    tree: Path, tmp_path: Path
) -> None:
    report = made(tree)
    assert "Digest of the images a1b2, of the protocol c3d4." in report.html
    assert "do not share one digest" not in report.html
    measured = report.metrics["tokenizer"]["lc"]["measured"]
    assert measured["protocol"] == {"digest": "c3d4", "features": "a small CLIP"}
    copy = Path(shutil.copytree(tree, tmp_path / "copy"))
    measured["images"]["digest"] = "ffff"
    write_metrics(copy, "evaluate/lc", evaluated(2, measured=measured))
    html = made(copy).html
    assert "do not share one digest of the images" in html
    assert "do not share one digest of the protocol" not in html
    assert "lc: ffff" in html
    assert "Digest of the images" not in html


def test_distances_in_inception_features_have_their_own_columns(tree: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tree, tmp_path / "copy"))
    found = {"fid": 12.5, "kid": 0.01, "precision_inception": 0.75, "recall_inception": 0.5}
    write_prior(copy, 0, "vq-gpt", samples=found)
    rows = rows_of(made(copy).html, "Samples, floor and ceiling")
    names = [name.split("|")[0] for name in rows[0]]
    assert names[-4:] == ["FID", "KID", "precision", "recall"]
    assert rows[1][-4:] == ["12.50", "0.0100", "0.750", "0.500"]


def test_a_prior_without_a_likelihood_has_its_samples(tree: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tree, tmp_path / "copy"))
    write_prior(copy, 0, "vq-gpt", bits_per_token=None, bits_per_image=None, validation=None, train=None)
    html = made(copy).html
    assert rows_of(html, "How well the tokens are predicted")[1][:4] == ["vq-gpt", "–", "9.200", "–"]
    assert rows_of(html, "Samples, floor and ceiling")[1][0] == "vq-gpt"


def test_metrics_have_the_names_that_gates_use(report: Report) -> None:
    metrics = report.metrics
    assert set(metrics) == {"clip", "cluster", "dataset", "graph", "prior", "task", "tokenizer", "vocabulary"}
    assert list(metrics["tokenizer"]) == list(VARIANTS)
    assert metrics["tokenizer"]["lc"]["psnr"] == 22
    assert metrics["tokenizer"]["lc"]["codes"]["code"]["utilisation"] == 0.8
    assert metrics["tokenizer"]["lc"]["floors"]["block_mean"]["psnr"] == 18
    assert metrics["tokenizer"]["lc"]["training"]["num_steps"] == 300
    assert metrics["clip"]["id"]  # text too, since another CLIP makes other numbers


def test_what_has_not_run_is_named_with_its_command(tmp_path: Path) -> None:
    params = write_params(tmp_path)
    write_metrics(tmp_path, "evaluate/old", evaluated(1))  # of a variant that the params lack
    made = build_report(tmp_path / "artifacts", params, PARAMS)
    check_valid(made.html)
    for command in ("dataset", "clip", "vocabulary", "graph", "cluster", "tokenizer", "evaluate", "prior"):
        assert f"dvc repro {command}" in made.html
    assert made.metrics == {"prior": {}, "task": {}, "tokenizer": {}}


def test_leftovers_of_removed_variants_are_not_shown(tmp_path: Path) -> None:
    params = write_params(tmp_path)
    write_metrics(tmp_path, "evaluate/old", evaluated(1))
    made = build_report(tmp_path / "artifacts", params, PARAMS)
    assert "Left over from earlier params and not shown: evaluate old." in made.html
    assert made.metrics["tokenizer"] == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics/clip.json", "{", "cannot be read as JSON"),
        ("metrics/clip.json", "[]", "not a JSON object"),
        ("curves/clip.csv", "loss\n1\n", "not a curves file"),
        ("curves/clip.csv", "step,loss\n1,x\n", "not a curves file"),
        ("curves/clip.csv", "step,loss\n1\n", "not a curves file"),
        ("dataset.cost.json", "", "cannot be read as JSON"),
    ],
)
def test_damaged_inputs_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    params = write_params(tmp_path)
    publish_text(tmp_path / "artifacts" / name, content)
    with pytest.raises(ArtifactError, match=message):
        build_report(tmp_path / "artifacts", params, PARAMS)


def test_missing_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="does not exist"):
        build_report(tmp_path, tmp_path / "params.yaml", PARAMS)
    params = write_params(tmp_path)
    with pytest.raises(ArtifactError, match="no artifacts folder"):
        build_report(tmp_path / "gone", params, PARAMS)
    for held in ("an empty folder", "dataset"):
        (tmp_path / "artifacts" / ("" if " " in held else held)).mkdir(parents=True)
        with pytest.raises(ArtifactError, match=rf"nothing to report\n.*{held}\n(.*\n)*.*dvc repro"):
            build_report(tmp_path / "artifacts", params, PARAMS)


def shown(html: str, folder: Path, width: int) -> tuple[int, int, int]:
    """What Chromium makes of a page from disk: pictures that are broken, all of them, pixels beyond the window."""
    probe = (
        "<script>addEventListener('load', () => { const broken = "
        "[...document.images].filter(i => !i.naturalWidth).length;"
        "document.title = `broken ${broken} of ${document.images.length}, overflow "
        "${document.documentElement.scrollWidth - "
        "document.documentElement.clientWidth}`; })</script>"
    )
    page = folder / "index.html"
    html = re.sub(r"<meta http-equiv[^>]*>", "", html).replace("</body>", f"{probe}</body>")
    page.write_text(html, encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},2000",
        "--dump-dom",
    ]
    done = subprocess.run(
        ["chromium", *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    broken, total, overflow = map(int, re.findall(r"-?\d+", title.group(1)))
    return broken, total, overflow


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1200, 400])
def test_chromium_shows_the_page(report: Report, tmp_path: Path, width: int) -> None:
    """The page opens from disk, shows all its pictures, and is no wider than the window."""
    broken, total, overflow = shown(report.html, tmp_path, width)
    assert total > 60
    assert (broken, overflow) == (0, 0)


def test_classes_of_pixels_and_lost_annotations_are_counted() -> None:
    content: dict[str, Any] = {"images": {}, "captions": {}, "quarantined": {"orphan_annotation": 1}}
    content |= {"num_classes": 0, "bad_fraction": 0.0}
    metrics = filled(DatasetMetrics, content | {"num_annotations": 400, "bad_annotation_fraction": 0.0075})
    text = _counts(metrics, 150)[-1]
    assert isinstance(text, Text)
    assert text.text == (
        "0 classes, 150 classes of pixels. Quarantined: 1 orphan annotation "
        "(0.00% of the source's images, 0.75% of its 400 captions and objects)."
    )
    text = _counts(
        filled(DatasetMetrics, content | {"num_annotations": None, "bad_annotation_fraction": None}), 0
    )[-1]
    assert isinstance(text, Text)
    assert text.text.startswith("0 classes. ")
    assert text.text.endswith("(0.00% of the source's images).")


def test_counts_have_a_singular() -> None:
    assert [counted(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert counted(1, "class", "classes") == "1 class"
