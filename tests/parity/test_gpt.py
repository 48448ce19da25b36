"""The GPT against numbers recorded from minGPT in taming-transformers, LlamaGen and VQCT; see tests/data/README.md.

Their parameters are mapped onto ours: query, key and value are one layer here, W1 and W3 of SwiGLU too, and LlamaGen's
planes of rotary positions have channels 2 i and 2 i + 1 where ours have i and i + e / 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.small_priors import LLAMA, NO_DROPOUT, PLAIN, params
from vqpipe.models.causal import CausalTransformer, CodeEmbedding, grid_places, turned, turns
from vqpipe.priors.contract import Condition, ImageSpace
from vqpipe.priors.gpt import GPT
from vqpipe.priors.prefix import Prefix
from vqpipe.priors.sampling import guide, probabilities
from vqpipe.runtime.seeds import torch_rng

DATA = Path(__file__).parents[1] / "data" / "parity"
CLOSE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-8}
SINGLE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


class Recorded:
    """The arrays of a file by name."""

    def __init__(self, name: str) -> None:
        with np.load(DATA / f"{name}.npz", allow_pickle=False) as opened:
            self.arrays = {key: torch.from_numpy(np.asarray(opened[key])) for key in opened.files}

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def __call__(self, name: str) -> int:
        return int(self.arrays[name])

    def weights(self, *names: str, end: str = "weight") -> Tensor:
        return torch.cat([self.arrays[f"sd/{name}.{end}"] for name in names])


def blocks_of_mingpt(found: Recorded, theirs: str, ours: str, count: int) -> dict[str, Tensor]:
    state = {}
    for layer in range(count):
        own, name = f"{theirs}.{layer}", f"{ours}.blocks.{layer}"
        for end in ("weight", "bias"):
            parts = (f"{own}.attn.{part}" for part in ("query", "key", "value"))
            state[f"{name}.attention.qkv.{end}"] = found.weights(*parts, end=end)
            for part, to in (
                ("ln1", "norm1"), ("ln2", "norm2"), ("attn.proj", "attention.out"), ("mlp.0", "mlp.0"),
                ("mlp.2", "mlp.2"),
            ):  # fmt: skip
                state[f"{name}.{to}.{end}"] = found.weights(f"{own}.{part}", end=end)
    return state


class SharedCodes(Prefix):
    """The prefix of taming's code: codes of the condition, with the embeddings of the image's codes."""

    def __init__(self, network: CausalTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, condition: Condition, count: int) -> Tensor:
        assert condition.text_ids is not None
        return self.network.codes(condition.text_ids[:, None])

    def turns(self, dim: int, base: float) -> Tensor:
        raise AssertionError("there are no rotary positions")


def mingpt(found: Recorded, attention: str) -> GPT:
    shape = {
        "num_layers": found("n_layer"), "num_heads": found("n_head"), "width": found("n_embd"),
        "block": {"kind": "gpt2"}, "rotary_base": None, "prefix_attention": attention, "dropout": NO_DROPOUT,
    }  # fmt: skip
    side, length = int(found("image_len") ** 0.5), found("cond_len")
    space = ImageSpace((found("vocab_size"),), (side, side), text_length=length, text_dim=1)
    text = {"encoder": "clip", "max_tokens": length}
    prior = GPT(params(condition="text", text=text, model=shape), space).double().eval()
    network, total = prior.network, length + found("image_len") - 1
    network.load_state_dict({
        "positions": found["sd/pos_emb"][0, :total],
        "codes.tables.0.weight": found.weights("tok_emb"),
        "heads.0.weight": found.weights("head"),
        "norms.0.weight": found.weights("ln_f"),
        "norms.0.bias": found.weights("ln_f", end="bias"),
        **blocks_of_mingpt(found, "blocks", "shared", found("n_layer")),
    })  # fmt: skip
    prior.prefix = SharedCodes(network)
    return prior


@pytest.mark.parametrize(("attention", "case"), [("causal", "causal"), ("full", "n_unmasked_cond")])
@torch.no_grad()
def test_logits_and_loss_are_tamings(attention: str, case: str) -> None:
    found = Recorded("mingpt")
    prior, cond, image = mingpt(found, attention), found["cond"], found["image"]
    network, side = prior.network, prior.grid[0]
    condition = Condition(text=torch.zeros(len(cond), cond.shape[1], 1), text_ids=cond)
    logits = prior(image[:, None], condition)[0]
    torch.testing.assert_close(logits, found[f"{case}/logits"], **CLOSE)
    inputs = network.codes(torch.cat([cond, image[:, :-1]], dim=1)[:, None])
    every = network.heads[0](network.hidden(inputs, slice(network.length))[0])
    torch.testing.assert_close(every, found[f"{case}/logits_all_positions"], **CLOSE)
    loss = prior.loss(image.view(-1, 1, side, side), condition)
    torch.testing.assert_close(loss, found[f"{case}/loss"], **CLOSE)


@torch.no_grad()
def test_a_prefix_of_vectors_is_tamings() -> None:
    found = Recorded("mingpt")
    network, prefix = mingpt(found, "causal").network, found["embeddings_prefix"]
    network.prefix = 1  # what comes out at the prefix is recorded, too
    codes = found["image"][:, None]
    first = torch.cat([prefix[:, 1:], network.codes(codes)], dim=1)
    logits = network.heads[0](network.hidden(torch.cat([prefix[:, :1], first], 1), slice(11))[0])
    torch.testing.assert_close(logits, found["causal/logits_with_embeddings_prefix"], **CLOSE)


def test_the_likeliest_continuations_are_tamings() -> None:
    found = Recorded("mingpt")
    prior, cond, image = mingpt(found, "causal"), found["cond"], found["image"]
    side, greedy = prior.grid[0], PLAIN.model_copy(update={"top_k": 1})
    known = image.clone()
    known[:, image.shape[1] // 2 :] = -1
    for tokens, expected in ((None, "greedy_sample"), (known, "greedy_sample_from_half")):
        condition = Condition(
            text=torch.zeros(len(cond), cond.shape[1], 1), text_ids=cond,
            tokens=None if tokens is None else tokens.view(-1, 1, side, side),
        )  # fmt: skip
        drawn = prior.sample(condition, len(cond), greedy, torch_rng(0, "s"))
        assert torch.equal(drawn.flatten(1), found[expected])
    three = PLAIN.model_copy(update={"top_k": 3})
    torch.testing.assert_close(probabilities(found["topk/in"], three), found["topk/k3"].softmax(-1), **CLOSE)


def vqct(found: Recorded) -> tuple[CausalTransformer, CodeEmbedding]:
    """The network, and the embedding of the condition's codes, which VQCT keeps apart from that of the image's."""
    config = params(
        model={
            "num_layers": found("n_layer"), "num_heads": found("n_head"), "width": found("n_embd"),
            "rotary_base": None, "head_bias": True, "dropout": NO_DROPOUT,
        }
    )  # fmt: skip
    codes, width = (found("n_adj"), found("n_noun")), found("n_embd")
    network = CausalTransformer(config.model, codes, found("image_len"), found("cond_len"), None)
    shared = len(network.shared.blocks)
    branch = len(network.branches[0].blocks)  # type: ignore[arg-type]
    state = {
        "positions": found["sd/pos_emb"][0, : network.length],
        **embedding(found, "img", "codes."),
        **blocks_of_mingpt(found, "blocks", "shared", shared),
    }
    for group, (name, head) in enumerate((("adj", "head1"), ("noun", "head2"))):
        state |= blocks_of_mingpt(found, f"blocks_{name}", f"branches.{group}", branch)
        for end in ("weight", "bias"):
            state[f"norms.{group}.{end}"] = found.weights(f"ln_f_{name}", end=end)
            state[f"heads.{group}.{end}"] = found.weights(head, end=end)
    network.double().eval().load_state_dict(state)
    own = CodeEmbedding(codes, width).double()
    own.load_state_dict(embedding(found, "seg", ""))
    return network, own


def embedding(found: Recorded, of: str, ours: str) -> dict[str, Tensor]:
    return {
        f"{ours}tables.0.weight": found.weights(f"adj_emb_{of}"),
        f"{ours}tables.1.weight": found.weights(f"noun_emb_{of}"),
        f"{ours}join.0.weight": found.weights(f"conv1_{of}.0"),
        f"{ours}join.0.bias": found.weights(f"conv1_{of}.0", end="bias"),
    }


@torch.no_grad()
def test_two_streams_with_a_condition_of_their_own_are_vqcts() -> None:
    found = Recorded("vqct_gpt")
    network, of_condition = vqct(found)
    prefix, image = of_condition(found["cond"].transpose(1, 2)), found["image"].transpose(1, 2)
    losses = []
    for group, name in enumerate(("adj", "noun")):
        for given, case in ((image.shape[2] - 1, ""), (0, "first_step/"), (3, "prefix3/")):
            features = network.features(prefix, image[..., :given])[group]
            torch.testing.assert_close(network.heads[group](features), found[f"{case}logits_{name}"], **CLOSE)
        logits = network.heads[group](network.features(prefix, image[..., :-1])[group])
        losses.append(F.cross_entropy(logits.flatten(0, 1), image[:, group].flatten()))
        torch.testing.assert_close(losses[-1], found[f"loss_{name}"], **CLOSE)
    torch.testing.assert_close(torch.stack(losses).sum(), found["loss"], **CLOSE)


def halves(dim: int) -> Tensor:
    """Channels of LlamaGen's head in the order of ours."""
    return torch.arange(dim).view(-1, 2).T.flatten()


def llamagen(found: Recorded) -> GPT:
    shape = {
        "num_layers": found("cfg/n_layer"), "num_heads": found("cfg/n_head"), "width": found("cfg/dim"),
        "block": LLAMA | {"multiple_of": found("cfg/multiple_of")}, "learned_positions": False,
        "rotary_base": float(found["cfg/rope_base"]), "dropout": NO_DROPOUT,
    }  # fmt: skip
    side = int(found("cfg/block_size") ** 0.5)
    classes = tuple(map(str, range(found("cfg/num_classes"))))
    prior = GPT(params(model=shape), ImageSpace((found("cfg/vocab_size"),), (side, side), classes)).eval()
    heads, dim = found("cfg/n_head"), prior.config.model.head_width
    state = {
        "prefix.table.weight": found.weights("cls_embedding.embedding_table"),
        "network.codes.tables.0.weight": found.weights("tok_embeddings"),
        "network.norms.0.weight": found.weights("norm"),
        "network.heads.0.weight": found.weights("output"),
    }
    for layer in range(found("cfg/n_layer")):
        own, name = f"layers.{layer}", f"network.shared.blocks.{layer}"
        query, key, value = found.weights(f"{own}.attention.wqkv").chunk(3)
        query, key = (part.view(heads, dim, -1)[:, halves(dim)].flatten(0, 1) for part in (query, key))
        state |= {
            f"{name}.attention.qkv.weight": torch.cat([query, key, value]),
            f"{name}.attention.out.weight": found.weights(f"{own}.attention.wo"),
            f"{name}.mlp.up.weight": found.weights(f"{own}.feed_forward.w1", f"{own}.feed_forward.w3"),
            f"{name}.mlp.down.weight": found.weights(f"{own}.feed_forward.w2"),
            f"{name}.norm1.weight": found.weights(f"{own}.attention_norm"),
            f"{name}.norm2.weight": found.weights(f"{own}.ffn_norm"),
        }
    prior.load_state_dict(state)
    return prior


@torch.no_grad()
def test_rotary_positions_are_llamagens() -> None:
    found = Recorded("llamagen_gpt")
    rotation = llamagen(found).network.rotation
    assert rotation is not None
    tables = {name: table for name, table in found.arrays.items() if name.startswith("rotary/")}
    assert tables
    for name, table in tables.items():
        side, dim = (int(part.lstrip("gridhea")) for part in name.removeprefix("rotary/").split("_")[:2])
        ours = turns(grid_places(side, side), dim, 10_000.0)[..., : dim // 2]
        torch.testing.assert_close(ours, table[1:].permute(2, 0, 1), **SINGLE)
        assert not table[:1].any()
    table = found["rotary_table"].permute(2, 0, 1).repeat(1, 1, 2)
    torch.testing.assert_close(rotation, table[:, :-1], **SINGLE)
    given, expected = (
        found[f"rotary_apply/{name}"][..., halves(8)].transpose(1, 2) for name in ("in", "out")
    )
    torch.testing.assert_close(turned(given, table), expected, **SINGLE)


@torch.no_grad()
def test_logits_and_losses_are_llamagens() -> None:
    found = Recorded("llamagen_gpt")
    prior, classes, tokens = llamagen(found), found["class"], found["tokens"]
    labels = classes.masked_fill(classes == found("cfg/null_class_index"), -1)
    condition = Condition(labels=labels)
    torch.testing.assert_close(prior(tokens[:, None], condition)[0], found["logits_train"], **SINGLE)
    batch = tokens.view(-1, 1, *prior.grid)
    torch.testing.assert_close(prior.loss(batch, condition), found["loss_train"], **SINGLE)
    nats = -prior.log_likelihood(batch, condition).flatten(1).mean(1)
    valid = found["valid"]
    torch.testing.assert_close((nats * valid).sum() / valid.sum(), found["loss_train_valid"], **SINGLE)


@torch.no_grad()
def test_guidance_and_the_likeliest_tokens_are_llamagens() -> None:
    found = Recorded("llamagen_gpt")
    prior, labels, tokens = llamagen(found), found["cfg_guidance/class"], found["tokens"][:, None]
    own, null = (prior(tokens, condition)[0] for condition in (Condition(labels=labels), Condition()))
    torch.testing.assert_close(own, found["cfg_guidance/cond"], **SINGLE)
    torch.testing.assert_close(null, found["cfg_guidance/uncond"], **SINGLE)
    for name in found.arrays:
        parts = name.split("/")
        if parts[0] == "cfg_guidance" and parts[-1] in ("all_positions", "prefill"):
            guided = guide(own, null, float(parts[1].removeprefix("scale")))
            expected = found[name]
            torch.testing.assert_close(guided[:, : expected.shape[1]], expected, **SINGLE)
    cases = [name for name in found.arrays if name.startswith("greedy/")]
    assert cases
    for name in cases:
        scale, interval = name.removeprefix("greedy/scale").split("_interval")
        guided_positions = None if int(interval) < 0 else int(interval) + 2
        sampling = PLAIN.model_copy(
            update={"top_k": 1, "guidance": float(scale), "guided_positions": guided_positions}
        )
        drawn = prior.sample(Condition(labels=labels), len(labels), sampling, torch_rng(0, "s"))
        assert torch.equal(drawn.flatten(1), found[name]), name


def test_filters_are_llamagens() -> None:
    found = Recorded("llamagen_gpt")
    cases = [name for name in found.arrays if name.startswith("filter/T")]
    assert cases
    for name in cases:
        temperature, top_k, top_p = (float(part[1:]) for part in name.removeprefix("filter/").split("_"))
        sampling = PLAIN.model_copy(
            update={"temperature": temperature, "top_k": int(top_k) or None, "top_p": top_p}
        )
        torch.testing.assert_close(
            probabilities(found["filter/logits"], sampling).float(), found[name], **SINGLE, msg=name
        )
