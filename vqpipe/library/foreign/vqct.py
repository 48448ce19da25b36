"""VQCT: the codes that its network gives for its words.

Source: VQCT, arXiv 2403.10071, and its public code: two graph convolutions (`quantize.gcn`), a ReLU between them, over
adjectives and nouns; the first half of the latent takes the mean of its `topk` nearest adjectives, the second half its
nearest noun. Word vectors and graph are not in a checkpoint. They are read from an .npz file without pickles:

    adjectives, nouns                    words, str
    adjective_vectors, noun_vectors      one row per word, floating
    adjective_counts_words, adjective_counts, noun_counts_words, noun_counts
                                         how often the captions have each word; their order is that of the codes
    pairs                                (E, 2) words, adjective and noun; a pair that occurs again counts again
    codes_adjectives, codes_nouns        optional: what the network gives, compared with what it gives here

A word of count 10 or less is no code, and its pairs are dropped. A word that is adjective and noun is, in pairs, the
noun. The tokenizer keeps the codes and not the network (`transfer: {kind: none}`): the graph of the project can have
edges between two nouns, which the modifying graph here cannot.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vqpipe.errors import DataError, MismatchError
from vqpipe.library.foreign.contract import Family, Options, Plan
from vqpipe.library.foreign.taming import STARTED, TRAINING, network
from vqpipe.library.foreign.trunks import DdConfig, vqgan_sources
from vqpipe.params.base import Params
from vqpipe.quantizers.transfer import normalised_adjacency

RARE = 10
"""Words that occur as often or less are no codes."""
LAYERS = ("conv1", "conv2")
KEYS = tuple(f"quantize.gcn.{layer}.{part}" for layer in LAYERS for part in ("lin.weight", "bias"))
KINDS = ("adjective", "noun")
TOLERANCE = 1e-4
"""Between codes in the file of words and codes here, relative to the largest."""


class VqctConfig(Params):
    """`model.params` of VQCT."""

    ddconfig: DdConfig
    """Encoder and decoder."""
    embed_dim: Annotated[int, Field(ge=1)]
    """Dimension of a code; the latent has two."""
    n_embed: Annotated[int, Field(ge=1)]
    """Not used by the class: the codes are as many as the words."""
    topk: Annotated[int, Field(ge=1)] = 1
    """Adjectives whose mean codes the first half."""
    remap: Literal[None] = None
    """A file that renumbers the codes."""


@dataclass(frozen=True)
class Words:
    """The words of the codes, and their graph."""

    names: tuple[list[str], list[str]]
    """Adjectives and nouns, in the order of the codes."""
    vectors: Float[Tensor, "K D"]
    """Of adjectives, then of nouns."""
    nodes: list[tuple[int, int]]
    """Pairs as places in `vectors`; repeated pairs are there again."""
    codes: Float[Tensor, "K d"] | None
    """What the network gives, where the file says so."""


def read_words(path: Path) -> Words:
    """The file of words that belongs to a VQCT checkpoint.

    Raises:
        DataError: no such file, another format, a damaged file, a missing array, arrays that do not fit each other,
            or a word without a vector.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as a file of words: {error}",
            expected="an .npz file without pickled objects",
        ) from error
    needed = {f"{kind}{part}" for kind in KINDS for part in ("s", "_vectors", "_counts", "_counts_words")} | {
        "pairs"
    }
    if missing := sorted(needed - set(arrays)):
        raise DataError(
            f"{path} lacks arrays", found=f"no {', '.join(missing)}", expected=", ".join(sorted(needed))
        )
    _check_shapes(arrays, path)
    names, rows = [], []
    for kind in KINDS:
        counts = zip(arrays[f"{kind}_counts_words"].tolist(), arrays[f"{kind}_counts"].tolist(), strict=True)
        kept = [str(word) for word, count in counts if count > RARE]
        places = {str(word): at for at, word in enumerate(arrays[f"{kind}s"].tolist())}
        if absent := [word for word in kept if word not in places]:
            raise DataError(
                f"{path}: words that are codes have no vector", found=f"{kind}s {', '.join(absent[:6])}"
            )
        names.append(kept)
        rows.append(arrays[f"{kind}_vectors"][[places[word] for word in kept]])
    widths = [part.shape[1] for part in rows]
    if widths[0] != widths[1]:
        raise DataError(
            f"{path}: adjectives and nouns have vectors of different dimensions", found=f"{widths}"
        )
    vectors = torch.from_numpy(np.concatenate(rows).astype(np.float32))
    nodes = {word: at for at, word in enumerate(names[0] + names[1])}
    pairs = [(nodes[a], nodes[b]) for a, b in arrays["pairs"].tolist() if a in nodes and b in nodes]
    given = [arrays[name] for name in ("codes_adjectives", "codes_nouns") if name in arrays]
    codes = torch.from_numpy(np.concatenate(given).astype(np.float32)) if len(given) == len(KINDS) else None
    return Words((names[0], names[1]), vectors, pairs, codes)


def _check_shapes(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Raise `DataError` where words and what is said of each are not as many, or pairs are no pairs."""
    for kind in KINDS:
        for words, of_each, ndim in (
            (f"{kind}s", f"{kind}_vectors", 2),
            (f"{kind}_counts_words", f"{kind}_counts", 1),
        ):
            one, other = arrays[words].shape, arrays[of_each].shape
            if len(one) != 1 or len(other) != ndim or one[0] != other[0]:
                raise DataError(
                    f"{path}: {of_each} has not one row for each of {words}", found=f"{other} for {one}"
                )
    if arrays["pairs"].size and arrays["pairs"].shape[1:] != (2,):
        raise DataError(
            f"{path}: pairs are not pairs of words", found=arrays["pairs"].shape, expected="(E, 2)"
        )


def graph_codes(state: Mapping[str, Tensor], words: Words) -> Float[Tensor, "K d"]:
    """What the checkpoint's network gives for the words: two graph convolutions (Kipf and Welling, eq. 2)."""
    edges = torch.tensor(words.nodes, dtype=torch.int64).reshape(-1, 2).T
    graph = normalised_adjacency(len(words.vectors), edges, torch.ones(edges.shape[1]))
    hidden = words.vectors
    for layer in LAYERS:
        weight, bias = (state[f"quantize.gcn.{layer}.{part}"].float() for part in ("lin.weight", "bias"))
        hidden = torch.sparse.mm(graph, hidden @ weight.T) + bias
        if layer != LAYERS[-1]:
            hidden = hidden.relu()
    return hidden


def vqct_plan(config: VqctConfig, state: Mapping[str, Tensor], options: Options, where: str) -> Plan:
    """Adjectives and nouns."""
    if options.words is None:
        raise MismatchError(
            f"{where} is of VQCT, whose checkpoints have neither words nor graph", found="no file of words",
            expected="the option --words FILE.npz; docs/library.md says what is in it",
        )  # fmt: skip
    words, dim, dd = read_words(options.words), config.embed_dim, config.ddconfig
    wanted = dict(zip(KEYS, ((dim, words.vectors.shape[1]), (dim,), (dim, dim), (dim,)), strict=True))
    wrong = [
        f"{key} {tuple(state[key].shape) if key in state else 'is missing'}, not {shape}"
        for key, shape in wanted.items()
        if key not in state or state[key].shape != shape
    ]
    if wrong:
        raise MismatchError(
            f"{where}: the graph network is not VQCT's for these words", found="; ".join(wrong)
        )
    codes = graph_codes(state, words)
    _compare(codes, words.codes, options.words)
    first = len(words.names[0])
    return Plan(
        **network(dd.form, dd.resolution), sources=vqgan_sources(dd.form), codebook="words",
        quantizer={
            "kind": "vqct", "dim": 2 * dim, "beta": 0.25, "beta_on": "codebook", "init": "standard",
            "transfer": {"kind": "none"}, "topk_adjectives": config.topk,
        },
        constants={**STARTED, **_parts(codes, words)}, used=KEYS, unused=("quantize.code_book_mapping.",),
        names=[*[words.names[0]] * config.topk, words.names[1]],
        note=f"the codes of {first:,} adjectives and {len(codes) - first:,} nouns, without the network that made them",
    )  # fmt: skip


def _parts(codes: Tensor, words: Words) -> dict[str, Any]:
    """The quantizer's tensors: codes as word vectors, and the pairs of an adjective and a noun with their counts."""
    first = len(words.names[0])
    counts = Counter((a, b - first) for a, b in words.nodes if a < first <= b)
    edges = torch.tensor(list(counts), dtype=torch.int64).reshape(-1, 2).T.contiguous()
    return {
        "quantizer.adjective_vectors": codes[:first].clone(), "quantizer.noun_vectors": codes[first:].clone(),
        "quantizer.edges": edges, "quantizer.edge_weights": torch.tensor(list(counts.values()), dtype=torch.float32),
    }  # fmt: skip


def _compare(codes: Tensor, given: Tensor | None, path: Path) -> None:
    if given is None:
        return
    close = given.shape == codes.shape and bool(
        ((given - codes).abs().max() <= TOLERANCE * given.abs().max().clamp_min(1)).item()
    )
    if not close:
        far = (given - codes).abs().max().item() if given.shape == codes.shape else tuple(given.shape)
        raise MismatchError(
            f"{path}: the codes in it are not those that the checkpoint's network gives for its words",
            found=f"a difference of {far}", expected="the words and the graph of this checkpoint",
        )  # fmt: skip


VQCT = Family("VQCT", ("taming.models.vqct.VQModel",), VqctConfig, TRAINING, vqct_plan)
