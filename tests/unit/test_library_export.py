"""ONNX graphs: every quantizer's indices and latents in onnxruntime, whole tokenizers, the search at large K."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from tests.recipes import every_recipe, make_tokenizer
from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.exported import ONNX
from vqpipe.cli.app import app
from vqpipe.codebooks import search
from vqpipe.codebooks.search import nearest, nearest_traced
from vqpipe.errors import ArtifactError, MismatchError, SetupError
from vqpipe.library import export
from vqpipe.library.export import export_tokenizer, need_packages, run_onnx, to_onnx, write_onnx
from vqpipe.quantizers import QUANTIZERS
from vqpipe.tokenizers.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

RECIPES = every_recipe()
GRAPHS = {name.split("-")[0]: name for name in reversed(RECIPES)}
"""The first recipe of each kind, and one whose search is for several codes."""
GRAPHS["vqct of two adjectives"] = "vqct-two-adjectives"
DIM = 8
TOGETHER = 5
"""Quantizers in one graph, since each graph costs seconds."""


@pytest.fixture(autouse=True)
def no_logs() -> Iterator[None]:
    """pytest asks for every log, and an export then takes several times as long for writing torch's."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Every(nn.Module):
    """Several quantizers in one graph: one latent to all indices and their latents."""

    def __init__(self, tokenizers: dict[str, Tokenizer]) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(t.quantizer for t in tokenizers.values())  # type: ignore[misc]

    def forward(self, z: Tensor) -> Tensor:
        parts = []
        for quantizer in self.quantizers:
            indices = quantizer(z, 1.0).indices
            parts += [indices.float(), quantizer.decode(indices)]
        return torch.cat(parts, dim=1)


def test_every_kind_of_quantizer_has_a_recipe() -> None:
    assert {name.split("-")[0] for name in RECIPES} == set(QUANTIZERS)


@pytest.mark.parametrize("first", range(0, len(GRAPHS), TOGETHER))
def test_every_quantizer_gives_the_same_indices_and_latents(first: int, tmp_path: Path) -> None:
    names = list(GRAPHS.values())[first : first + TOGETHER]
    tokenizers = {name: make_tokenizer(RECIPES[name]) for name in names}
    z = draw(3, DIM, 4, 4)
    write_onnx(to_onnx(Every(tokenizers), z[:2], "z", "all"), tmp_path / "all.onnx", {})
    found = torch.from_numpy(run_onnx(tmp_path / "all.onnx", z.numpy()))
    at = 0
    for name, tokenizer in tokenizers.items():
        indices = tokenizer.quantizer.forward(z).indices
        groups = indices.shape[1]
        assert torch.equal(found[:, at : at + groups].long(), indices), name
        latents = found[:, at + groups : at + groups + DIM]
        torch.testing.assert_close(latents, tokenizer.quantizer.decode(indices), atol=1e-5, rtol=0, msg=name)
        at += groups + DIM
    assert at == found.shape[1]


TRUNK: dict[str, Any] = {
    "patch": 1, "channels": 8, "channel_multipliers": [1, 2], "num_blocks": 1, "attention_levels": [1],
    "middle": True, "middle_attention": True, "shortcut": True, "latent_channels": 4, "dropout": 0.1,
}  # fmt: skip


def test_the_command_writes_graphs_that_compute_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(RECIPES["vqct-paper"], trunk=TRUNK)
    tokenizer.save(tmp_path / "vqct", {})
    done = CliRunner().invoke(app, ["export", str(tmp_path / "vqct"), "--out", str(tmp_path / "onnx")])
    assert done.exit_code == 0, done.output
    assert "images (batch, 3, 16, 16) to indices (batch, 2, 8, 8) and back, opset 18" in done.output
    assert "384 of 384 indices equal" in done.output
    images = draw(5, 3, 16, 16).clamp(-1, 1)
    indices = run_onnx(tmp_path / "onnx/encoder.onnx", images.numpy())
    assert indices.dtype == np.int64
    assert np.array_equal(indices, tokenizer.encode(images).numpy())
    decoded = torch.from_numpy(run_onnx(tmp_path / "onnx/decoder.onnx", indices))
    torch.testing.assert_close(decoded, tokenizer.decode(torch.from_numpy(indices)), atol=1e-4, rtol=0)
    assert run_onnx(tmp_path / "onnx/encoder.onnx", images[:1].numpy()).shape == (1, 2, 8, 8)
    facts = read_manifest(tmp_path / "onnx", ONNX).facts
    assert facts["num_codes"] == [5, 7]
    assert facts["encoder"] == {"file": "encoder.onnx", "input": "images", "output": "indices"}
    _looks_right_from_outside(tmp_path / "onnx/encoder.onnx")


def _looks_right_from_outside(path: Path) -> None:
    """Opset, names, metadata; no word vectors, and no traces of where it was made."""
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["num_codes"]) == [5, 7]
    assert json.loads(metadata["resolution"]) == 16
    assert (session.get_inputs()[0].name, session.get_inputs()[0].shape) == ("images", ["batch", 3, 16, 16])
    assert (session.get_outputs()[0].name, session.get_outputs()[0].shape) == ("indices", ["batch", 2, 8, 8])
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    shapes = {tuple(i.dims) for i in model.graph.initializer}
    assert (5, 4) in shapes, "the adjectives' codes"
    assert (5, 12) not in shapes, "the adjectives' vectors"
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_traced_search_finds_what_the_exact_one_does(
    metric: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "CODES", 64)  # tiles, with a last one of 2 codes
    z, codes = draw(500, 6) + 30, draw(258, 6, seed=1) + 30  # far from the origin, where scores are coarse
    assert torch.equal(
        nearest_traced(z, codes, cosine=metric == "cosine").squeeze(1), nearest(z, codes, metric)
    )
    several = nearest_traced(z, codes, 3, cosine=metric == "cosine")
    assert torch.equal(several, search.nearest_topk(z, codes, 3, metric))
    for num in (1, 2, 3):
        assert torch.equal(
            nearest_traced(z, codes[:num], cosine=metric == "cosine").squeeze(1),
            nearest(z, codes[:num], metric),
        )


def test_of_equal_codes_the_traced_search_takes_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CODES", 16)
    codes = draw(40, 4).repeat(2, 1)
    assert nearest_traced(codes, codes).flatten().tolist() == [*range(40)] * 2


def test_a_large_codebook_is_searched_in_tiles(tmp_path: Path) -> None:
    class Search(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", draw(20_000, 4))

        def forward(self, z: Tensor) -> Tensor:
            assert isinstance(self.codes, Tensor)
            return nearest(z, self.codes)

    import onnx

    graph, z = Search(), draw(300, 4, seed=1)
    write_onnx(to_onnx(graph, z[:2], "z", "indices"), tmp_path / "s.onnx", {})
    assert np.array_equal(run_onnx(tmp_path / "s.onnx", z.numpy()), graph(z).numpy())
    inferred = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "s.onnx"), data_prop=True)
    dims = [d.dim_value for v in inferred.graph.value_info for d in v.type.tensor_type.shape.dim[1:]]
    assert max(dims) == search.CODES


def test_folders_with_something_else_are_left_alone(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(RECIPES["vq-uniform"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years")
    with pytest.raises(ArtifactError, match=r"would be lost\n.*thesis\.tex"):
        export_tokenizer(tokenizer, tmp_path / "mine")
    tokenizer.save(tmp_path / "vq", {})
    with pytest.raises(ArtifactError, match=r"would be lost\n.*artifact of tokenizer"):
        export_tokenizer(tokenizer, tmp_path / "vq")
    with pytest.raises(ArtifactError, match="is a file"):
        export_tokenizer(tokenizer, tmp_path / "mine/thesis.tex")
    with publish_folder(tmp_path / "onnx", ONNX, {}) as folder:
        for name in ONNX.required:
            (folder / name).write_text("")
    (tmp_path / "onnx/notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"would be lost\n.*notes\.txt"):
        export_tokenizer(tokenizer, tmp_path / "onnx")
    with pytest.raises(ArtifactError, match="is a published folder"):
        export_tokenizer(tokenizer, tmp_path / "vq/onnx")


def test_a_missing_package_is_reported_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    need_packages()
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(SetupError, match=r'no onnxscript\n.*pip install "vqpipe\[export\]"'):
        export_tokenizer(make_tokenizer(RECIPES["vq-uniform"]), tmp_path / "onnx")


def test_graphs_that_compute_something_else_are_not_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(RECIPES["vq-uniform"])
    right = {"encoder.onnx": tokenizer.encode, "decoder.onnx": tokenizer.decode}
    wrong = {
        "encoder.onnx": lambda x: tokenizer.encode(-x),
        "decoder.onnx": lambda x: tokenizer.decode(15 - x),
    }
    monkeypatch.setattr(export, "to_onnx", lambda *_: None)
    monkeypatch.setattr(export, "write_onnx", lambda _, path, __: path.write_bytes(b""))
    for name in right:
        graphs = {**right, name: wrong[name]}
        monkeypatch.setattr(
            export, "run_onnx", lambda path, x, g=graphs: g[path.name](torch.from_numpy(x)).numpy()
        )
        with pytest.raises(MismatchError, match="do not compute what the tokenizer does"):
            export_tokenizer(tokenizer, tmp_path / "onnx")
        assert not (tmp_path / "onnx").exists()
    monkeypatch.setattr(export, "run_onnx", lambda path, x: right[path.name](torch.from_numpy(x)).numpy())
    assert export_tokenizer(tokenizer, tmp_path / "onnx").num_equal == 48
