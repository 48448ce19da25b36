"""A tokenizer as two ONNX graphs, encoder and decoder, that run without this library.

    encoder.onnx   images  float32 (batch, 3, r, r) in [-1, 1]   ->  indices  int64 (batch, g, h, w)
    decoder.onnx   indices int64 (batch, g, h, w)                ->  images   float32 (batch, 3, r, r), not clamped

`batch` is free, r is fixed. The quantizer is in both graphs, its codes as constants; what they were made from (word
vectors, centroids, projector) is left out. The nearest-code search is that of `vqpipe.codebooks.search`, whose
memory does not grow with K; quantizers that choose by logits (`gumbel`, `ibq`) need batch * h * w * K logits, as in
eval mode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.exported import ONNX
from vqpipe.errors import MismatchError, SetupError
from vqpipe.library.places import need_own
from vqpipe.tokenizers.identity import tokenizer_identity
from vqpipe.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSET = 18
"""Of ONNX's default domain; onnxruntime reads it from 1.14 on."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
ONE_FILE_BYTES = 1_800_000_000
"""Weights beyond this go to `NAME.onnx.data` next to the graph: a protobuf file may not reach 2 GiB."""
MIN_EQUAL_INDICES, MAX_IMAGE_ERROR = 0.99, 1e-3
"""What the check of a finished export asks for; beyond, the graphs compute something else."""


class EncoderGraph(nn.Module):
    """Images to indices, without checks of values."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, images: Float[Tensor, "b 3 r r"]) -> Int[Tensor, "b g h w"]:
        return self.tokenizer.quantizer.indices(self.tokenizer.encode_latent(images))


class DecoderGraph(nn.Module):
    """Indices to images, without checks of values."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b 3 r r"]:
        return self.tokenizer.decode_latent(self.tokenizer.quantizer.decode(indices))


@dataclass(frozen=True)
class Exported:
    """What was published, and how it compares with the tokenizer on random images, a batch of another length."""

    facts: dict[str, Any]
    num_indices: int
    num_equal: int
    """Indices that onnxruntime and torch agree on; others are ties but for a rounding."""
    image_error: float
    """Largest absolute difference of the decoded images, of a range of 2."""


def need_packages() -> None:
    """Raise `SetupError` where a package that an export needs is not installed."""
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    if lacking:
        raise SetupError(
            "an export to ONNX needs packages of the extra `export`", found=f"no {', '.join(lacking)}",
            run='pip install "vqpipe[export]"',
        )  # fmt: skip


def export_tokenizer(tokenizer: Tokenizer, out: Path) -> Exported:
    """Write `encoder.onnx` and `decoder.onnx` into a published folder, and run them once in onnxruntime.

    Equal tokenizers give equal bytes with the same versions of torch and onnxscript. The tokenizer must be on the CPU;
    it is left in eval mode.

    Raises:
        SetupError: packages of the extra `export` are missing.
        ArtifactError: `out` is something else that this would overwrite, or has files of others.
        MismatchError: the graphs do not compute what the tokenizer does.
    """
    need_packages()
    need_own(out, ONNX)
    (rows, columns), side = tokenizer.grid, tokenizer.resolution
    images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    indices = tokenizer.eval().encode(images)
    facts: dict[str, Any] = {
        "opset": OPSET, "resolution": side, "grid": [rows, columns], "groups": tokenizer.groups,
        "num_codes": list(tokenizer.num_codes), "image_range": [-1, 1], "tokenizer": tokenizer_identity(tokenizer),
        "encoder": {"file": ENCODER, "input": "images", "output": "indices"},
        "decoder": {"file": DECODER, "input": "indices", "output": "images"},
    }  # fmt: skip
    with publish_folder(out, ONNX, facts) as folder:
        for name, module, example in (
            ("encoder", EncoderGraph(tokenizer), images), ("decoder", DecoderGraph(tokenizer), indices),
        ):  # fmt: skip
            own = facts[name]
            program = to_onnx(module, example[:2], own["input"], own["output"])
            shared = {key: value for key, value in facts.items() if key not in ("encoder", "decoder")}
            write_onnx(
                program, folder / own["file"], {**shared, "input": own["input"], "output": own["output"]}
            )
        return _checked(tokenizer, folder, facts, images, indices)


def to_onnx(module: nn.Module, example: Tensor, input_name: str, output_name: str) -> ONNXProgram:
    """One input, one output, the first axis of both free; `example` gives the others, and must be 2 or longer."""
    module.eval()
    with torch.no_grad():
        module(example)  # codes that eval keeps are made now: the graph takes them as constants
        program = torch.onnx.export(
            module, (example,), dynamo=True, dynamic_shapes=({0: "batch"},), input_names=[input_name],
            output_names=[output_name], opset_version=OPSET, verbose=False,
        )  # fmt: skip
    assert program is not None
    return program


def write_onnx(program: ONNXProgram, path: Path, facts: Mapping[str, Any]) -> None:
    """Save a graph with `facts` as its metadata (JSON texts by name), without the traces of where it was made."""
    model = program.model
    model.metadata_props.clear()
    model.metadata_props.update(
        {key: json.dumps(value, sort_keys=True) for key, value in sorted(facts.items())}
    )
    model.producer_version = None
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    program.save(path, external_data=weights > ONE_FILE_BYTES)


def _checked(
    tokenizer: Tokenizer, folder: Path, facts: dict[str, Any], images: Tensor, indices: Tensor
) -> Exported:
    found = run_onnx(folder / ENCODER, images.numpy())
    again = run_onnx(folder / DECODER, indices.numpy())
    equal = int((found == indices.numpy()).sum()) if found.shape == tuple(indices.shape) else 0
    error = float(np.abs(again - tokenizer.decode(indices).numpy()).max())
    if equal < MIN_EQUAL_INDICES * indices.numel() or not error <= MAX_IMAGE_ERROR:
        raise MismatchError(
            "the exported graphs do not compute what the tokenizer does",
            found=f"{equal} of {indices.numel()} indices equal, images off by {error:.2g}",
            expected=f"{MIN_EQUAL_INDICES:.0%} of the indices, images within {MAX_IMAGE_ERROR}",
        )
    return Exported(facts, indices.numel(), equal, error)


def run_onnx(path: Path, given: np.ndarray) -> np.ndarray:
    """The one output of a graph with one input, by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: given})[0]
    return result
