"""The report's section on codebook health: every part there, escaped, repeatable, and honest about what is absent."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from report_tree import HOSTILE, PARAMS, write_tree
from test_report_page import check_valid, rows_of

from vqpipe.artifacts.publish import publish_text
from vqpipe.report.about_health import norm_grid, scatter, similarity_map
from vqpipe.report.about_reconstructions import ordinal
from vqpipe.report.build import build_report
from vqpipe.report.pictures import signed_map


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("health")
    write_tree(root)
    return root


@pytest.fixture(scope="module")
def page(tree: Path) -> str:
    return build_report(tree / "artifacts", tree / "params.yaml", PARAMS).html


def section(html: str) -> str:
    start = html.index('<section id="health"')
    return html[start : html.index('<section id="priors"', start)]


def test_every_part_is_there(page: str) -> None:
    check_valid(page)
    own = section(page)
    for title in (
        "Codes over the training", "Codes against images seen", "How similar codes are", "Norm of each code",
        "t-SNE of the codes", "Each code through the decoder", "Tokens replaced by others",
    ):  # fmt: skip
        assert title in own
    assert own.count('class="pixels"') == 4  # vq, adjective and noun of vqct, lc
    assert own.count('class="dots d0"') == 4
    assert own.count("decodes a grid of") == 3 * 6


def test_the_table_has_each_codebook(page: str) -> None:
    rows = rows_of(page, "The codebooks in numbers")
    assert [row[0] for row in rows[1:]] == ["vq", "vqct, adjective", "vqct, noun", "lc"]
    assert [name.split("|")[0] for name in rows[0]] == [
        "codebook", "used", "perplexity / K", "tail mass", "90 % of tokens in", "dead at the end", "collapse",
        "nearest code",
    ]  # fmt: skip
    assert rows[1][1:] == ["400 of 1,024|39.1%", "9.9", "0.0", "10.0", "80.6", "120", "0.750"]
    assert [row[6] for row in rows[2:]] == ["none"] * 3


def test_replaced_tokens_are_listed_and_shown(page: str) -> None:
    assert rows_of(page, "PSNR after every token was replaced") == [
        ["tokenizer", "K", "reconstruction|dB, ↑", "nearest|dB, ↑", "50th nearest|dB, ↑"],
        ["vq", "1,024", "21.00|20.99 to 21.01", "18.90|18.89 to 18.91", "–"],
        ["lc", "1,024", "23.00|22.99 to 23.01", "18.90|18.89 to 18.91", "14.00"],
    ]
    own = section(page)[section(page).index('id="health-replaced"') :]
    assert "<script" not in own
    assert "Left out: vq has no 50th nearest code." in own
    (part,) = (e for e in check_valid(page).iter("section") if e.get("id") == "health-replaced")
    shown = [image.get("alt") for image in part.iter("img")]
    assert shown[:4] == [
        "image random-0, original",
        "image random-0 as vq reconstructs it, PSNR 20.00 dB",
        "image random-0 as vq: nearest code: 17.90 dB, 64 of 64 tokens",
        f"image random-0 as vq: middle from {HOSTILE}: 15 of 64 tokens",
    ]
    assert len(shown) == 2 * (4 + 5)  # num_reconstructions: 2; lc has a 50th code
    assert [ordinal(n) for n in (1, 2, 3, 11, 22, 112, 1000)] == [
        f"{word}nearest" for word in ("", "2nd ", "3rd ", "11th ", "22nd ", "112th ", "1,000th ")
    ]


def test_watched_columns_are_drawn_once(page: str) -> None:
    assert "ae/dead_share" not in page
    assert page.count("dead codes, % of K by step") == 1
    assert "distinct codes in a batch, group 0" in page


def test_words_are_escaped(page: str) -> None:
    own = section(page)
    assert "<script" not in own
    assert "&lt;/figcaption&gt;" in own
    document = check_valid(page)
    assert any(
        HOSTILE in (image.get("alt") or "") for image in document.iter("img") if "decodes" in image.get("alt")
    )


def test_equal_inputs_give_equal_bytes(tree: Path, page: str) -> None:
    assert build_report(tree / "artifacts", tree / "params.yaml", PARAMS).html == page


def test_what_is_absent_is_named(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "copy")
    root = tmp_path / "copy"
    for variant in ("vq", "vqct", "lc"):
        publish_text(root / f"artifacts/curves/tokenizer/{variant}.csv", "step,ae/loss\n0,1\n10,0.5\n")
        (root / f"artifacts/metrics/tokenizer/{variant}.json").unlink()
    own = section(build_report(root / "artifacts", root / "params.yaml", PARAMS).html)
    assert "time line of dead codes is absent" in own
    assert "Usage against images seen" in own
    for variant in ("vq", "lc"):
        shutil.rmtree(root / f"artifacts/evaluation/{variant}")
    own = section(build_report(root / "artifacts", root / "params.yaml", PARAMS).html)
    assert "evaluate.examples.replaced in the params asks for none" in own
    shutil.rmtree(root / "artifacts/evaluation")
    own = section(build_report(root / "artifacts", root / "params.yaml", PARAMS).html)
    assert "health is absent" in own
    assert "Usage against images seen" not in own


def test_colours_of_cosines() -> None:
    low, middle, high = signed_map(np.array([[-1.0, 0.0, 1.0]]))[0].astype(int)
    assert low[2] > low[0] + 80
    assert high[0] > high[2] + 80
    assert min(middle) > 230


def test_norms_fill_a_grid_in_reading_order() -> None:
    grid = norm_grid(np.array([0.0, 1.0, 2.0, 2.0, 9.0]), 2.0)
    scale = grid.shape[1] // 3
    cells = grid[::scale, ::scale].astype(int).tolist()
    assert grid.shape == (2 * scale, 3 * scale, 3)
    assert cells[0][2] == cells[1][0] == cells[1][1] == [252, 255, 164]
    assert cells[0][0] == [0, 0, 12]
    assert cells[1][2] == [128] * 3


def test_points_are_within_their_drawing() -> None:
    places = np.random.default_rng(0).normal(size=(30, 2)) * [50, 3]
    svg = str(scatter([("d0", places), ("d1", np.zeros((0, 2)))], "a map"))
    width, height = (float(value) for value in svg.split('viewBox="0 0 ')[1].split('"')[0].split())
    points = [
        tuple(map(float, p.split(" ")))
        for p in svg.split('d="M')[1].split('"')[0].replace("h0", "").split("M")
    ]
    assert len(points) == 30
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    assert "d1" not in svg
    one = str(scatter([("d0", np.ones((1, 2)))], "one"))
    assert "nan" not in one


def test_names_of_a_similarity_map_are_escaped_and_clipped() -> None:
    text = str(similarity_map(np.eye(2), ["<b>", "a" * 40], "cosines of <b>"))
    assert "<b>" not in text
    assert text.count("&lt;b&gt;</text>") == 2
    assert "a" * 17 not in text
