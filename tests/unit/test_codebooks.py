"""Pretrained codebooks for anyone's code: loading, statistics of the graph, and the model card."""

from __future__ import annotations

import subprocess
import sys
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

import vqpipe
from tests.text_captions import counted, publish
from vqpipe.artifacts.publish import publish_folder, publish_sealed
from vqpipe.artifacts.run import stage_run
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.artifacts.specs.codebooks import CENTROID_TENSORS, PATCHES_CODEBOOK
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.codebooks.patches import PatchesCodebook
from vqpipe.codebooks.statistics import components, graph_shape, mutual_information
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.library.cards import codebook_card

GRAPH = {
    "min_count": 1, "weight": "count",
    "vectors": {"kind": "random", "dim": 6, "std": 1.0, "seed": 0},
}  # fmt: skip
CAPTIONS = ["a red bird and a red bird", "a green tree", "a red tree", "a tall tree"]
ADJECTIVES, NOUNS = {"red": 3, "green": 1, "tall": 1, "odd": 1}, {"tree": 3, "bird": 2, "sea": 1}


def write_words(path: Path, **changes: Any) -> Path:
    """A small words codebook with the lineage that a stage leaves."""
    with stage_run("graph", {"graph": {**GRAPH, **changes}}) as run:
        publish(run.staged(path), counted(CAPTIONS, ADJECTIVES, NOUNS), {**GRAPH, **changes})
    return path


def write_patches(path: Path) -> Path:
    """Five centroids on a line."""
    facts = {
        "num_clusters": 5, "dim": 2, "clip_id": "vit:openai:0123", "projected": True, "grid": 4, "objective": 0.5,
        "num_vectors": 100, "method": "kmeans", "per_class": False, "prefixes": [{"k": 2, "objective": 2.0}],
    }  # fmt: skip
    tensors = {
        "centroids": torch.tensor([[0.0, 0], [4, 0], [1, 0], [2, 0], [3, 0]]),
        "counts": torch.tensor([40, 30, 20, 10, 0]),
    }
    with publish_folder(path, PATCHES_CODEBOOK, facts) as folder:
        write_tensors(folder / "centroids.safetensors", CENTROID_TENSORS, tensors, facts)
    return path


@pytest.mark.slow
def test_importing_vqpipe_loads_nothing_heavy() -> None:
    script = (
        "import sys, vqpipe; heavy = {'torch', 'numpy', 'pyarrow', 'pydantic', 'safetensors'};"
        "print(sorted(heavy & set(sys.modules)), callable(vqpipe.load_codebook), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True True"
    with pytest.raises(AttributeError, match="load_codebok"):
        _ = vqpipe.load_codebok


def test_words(tmp_path: Path) -> None:
    words = vqpipe.load_codebook(str(write_words(tmp_path / "words")))
    assert isinstance(words, WordsCodebook)
    assert words.names == ["red", "green", "tall", "odd", "tree", "bird", "sea"]
    assert words.vectors.shape == (7, 6)
    assert words.nouns_of("red") == {"tree": 1.0, "bird": 2.0}
    assert words.adjectives_of("tree") == {"red": 1.0, "green": 1.0, "tall": 1.0}
    assert words.adjectives_of("sea") == {}
    with pytest.raises(KeyError, match="blue"):
        words.nouns_of("blue")
    assert words.nearest(3 * words.vectors[[5, 0]], 2)[0][0] == "bird"
    assert [row[0] for row in words.nearest(-words.vectors)] != words.names
    assert words.nearest(words.vectors) == [[name] for name in words.names]
    with pytest.raises(MismatchError, match="shape"):
        words.nearest(torch.zeros(3, 5))


def test_centroids(tmp_path: Path) -> None:
    codebook = vqpipe.load_codebook(write_patches(tmp_path / "patches"))
    assert isinstance(codebook, PatchesCodebook)
    assert codebook.prefixes == {2: 2.0, 5: 0.5}
    assert torch.equal(codebook.prefix(2), codebook.vectors[:2])
    features = torch.tensor([[2.9, 0.5], [0.9, -1.0]])
    assert codebook.nearest(features).tolist() == [4, 2]
    assert codebook.nearest(features, 2).tolist() == [1, 0]
    for k in (0, 6):
        with pytest.raises(MismatchError, match="1 to 5"):
            codebook.prefix(k)
    with pytest.raises(MismatchError, match="vit:openai:0123"):
        codebook.nearest(torch.zeros(2, 3))


def test_what_is_not_a_codebook_is_reported(tmp_path: Path) -> None:
    with publish_folder(tmp_path / "none", NO_CODEBOOK, {}):
        pass
    with pytest.raises(ArtifactError, match="no codebook"):
        vqpipe.load_codebook(tmp_path / "none")
    with pytest.raises(ArtifactError, match="does not exist"):
        vqpipe.load_codebook(tmp_path / "gone")


def test_components() -> None:
    assert components([], 2, 1).tolist() == [1, 1, 1]
    assert components([(0, 0), (1, 0), (2, 1), (2, 2)], 4, 3).tolist() == [3, 3, 1]
    assert components([(0, 0), (1, 0), (2, 1), (2, 0)], 4, 3).tolist() == [5, 1, 1]


def test_statistics() -> None:
    found = graph_shape([(0, 0), (0, 1), (0, 2), (1, 0), (3, 3)], 4, 5).plain()
    degree = found.pop("degree")
    assert found == {
        "num_adjectives": 4, "num_nouns": 5, "num_edges": 5, "density": 0.25, "num_components": 2,
        "largest_component": round(5 / 9, 6), "isolated_adjectives": 1, "isolated_nouns": 1,
    }  # fmt: skip
    assert degree["adjectives"] == {
        "mean": 1.25, "quarter": 0.75, "median": 1.0, "three_quarters": 1.5, "ninety_percent": 2.4, "max": 3,
    }  # fmt: skip
    empty = graph_shape([], 1, 2)
    assert (empty.num_components, empty.largest_component, empty.degree.nouns.max) == (0, 0.0, 0)


def test_mutual_information() -> None:
    found = mutual_information({("red", "bird"): 6, ("red", "tree"): 2, ("green", "tree"): 2})
    assert found["green", "tree"] == pytest.approx(log(2.5))
    assert found["red", "tree"] == pytest.approx(log((2 / 10) / ((8 / 10) * (4 / 10))))
    assert found["red", "tree"] < 0


def test_card_of_words(tmp_path: Path) -> None:
    path = write_words(tmp_path / "words")
    text = codebook_card(path)
    assert text == codebook_card(path)
    assert text.startswith("# Codebook: words\n")
    for line in (
        "| adjectives | 4 |", "| CLIP | none |", "| graph.weight | count |", "| nouns without an edge | 1 |",
        "| red | bird | 2 | 0.51 |", "Made by the stage `graph` from these inputs:",
    ):  # fmt: skip
        assert line in text
    assert "words.nouns\\_of" not in text
    assert "The vectors are random" in text
    assert "**CLIP.**" not in text
    assert "WordNet 3.0" in text
    assert str(tmp_path) not in text


def test_card_without_its_own_lineage(tmp_path: Path) -> None:
    path = write_words(tmp_path / "words")
    sidecar = tmp_path / "words.lineage.json"
    publish_sealed(sidecar, {**read_sealed_json(sidecar), "output": "another"})
    assert "the lineage next to the codebook is of other content" in codebook_card(path)
    sidecar.unlink()
    assert "there is no lineage next to the codebook" in codebook_card(path)


def test_card_of_words_without_edges(tmp_path: Path) -> None:
    text = codebook_card(write_words(tmp_path / "words", min_count=9))
    assert "| edges | 0 |" in text
    assert "most frequent pairs" not in text


def test_card_of_centroids(tmp_path: Path) -> None:
    text = codebook_card(write_patches(tmp_path / "patches"))
    for line in (
        "| 2 | 2 | 4.000 |", "| largest | 0 | 40 | 40 % | 0 |", "Clusters without a patch: 1.",
        "codebook.prefix(2) ", "weights `vit:openai:0123`", "Not known: there is no lineage",
    ):  # fmt: skip
        assert line in text


def test_the_loading_code_of_the_cards_runs(tmp_path: Path) -> None:
    for path in (write_words(tmp_path / "words"), write_patches(tmp_path / "patches")):
        code = (
            codebook_card(path)
            .split("```python\n")[1]
            .split("```")[0]
            .replace(f'"{path.name}"', repr(str(path)))
        )
        dim = 6 if path.name == "words" else 2
        names: dict[str, Any] = {"features": torch.zeros(1, dim)}
        exec(code, names)


@pytest.mark.parametrize("text", ["a|b", "<script>", "[x](y)", "*a* _b_ `c`", "two\nlines"])
def test_text_from_data_is_no_markup(text: str) -> None:
    from vqpipe.library.cards import escape, table

    assert "\n" not in escape(text)
    assert "<" not in escape(text).replace("&lt;", "")
    row = table(["x"], [[text]])[-1]
    assert row.replace("\\|", "").count("|") == 2
