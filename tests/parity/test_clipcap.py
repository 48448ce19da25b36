"""ClipCap's mappers, loss and beam search against recorded outputs of its code (tests/data)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.latent_priors import equal, recorded
from vqpipe.models.captioner import MlpMapper, TransformerMapper, VectorTokens, word_losses
from vqpipe.tasks.beam import beam_search

DATA = recorded("clipcap")
PREFIX, DIM, WIDTH, TOKENS, LAYERS, HEADS = (
    int(DATA[name])
    for name in ("prefix_length", "dim_clip", "dim_embedding", "clip_length", "num_layers", "num_heads")
)


def weights(prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in DATA.items() if key.startswith(prefix)}


def test_the_mlp_mapper_is_clipcaps() -> None:
    mapper = MlpMapper(DIM, WIDTH, PREFIX).double()
    mapper.load_state_dict(weights("mlp/sd/"))
    equal(mapper(DATA["x"]).detach(), DATA["mlp/out"])


def test_the_transformer_mapper_is_clipcaps() -> None:
    source = VectorTokens(DIM, WIDTH, TOKENS).double()
    mapper = TransformerMapper(WIDTH, PREFIX, LAYERS, HEADS).double()
    names = {
        key.removeprefix("transformer.").replace("fc1", "0").replace("fc2", "2"): value
        for key, value in weights("transformer/sd/").items()
    }
    source.load_state_dict({key: names.pop(key) for key in ("linear.weight", "linear.bias")})
    mapper.load_state_dict(names)
    equal(mapper(source(DATA["x"])).detach(), DATA["transformer/out"])


def test_the_loss_is_of_the_words_alone() -> None:
    logits, tokens = DATA["caption_loss/logits"], DATA["caption_loss/tokens"]
    losses = word_losses(logits[:, PREFIX - 1 : -1], tokens, 0)
    equal(losses.sum() / (tokens != 0).sum(), DATA["caption_loss/loss"])


class Table:
    """The next word's logits depend on the last word alone; equal for two images."""

    def __init__(self, start: Tensor, table: Tensor) -> None:
        self.logits, self.table = start.expand(2, -1), table

    def step(self, sources: Tensor, tokens: Tensor) -> None:
        self.logits = self.table[tokens]


def mean_log_probability(own: dict[str, Tensor], words: list[int]) -> float:
    rows = torch.cat([own["start_logits"][None], own["table_logits"][words[:-1]]]) / own["temperature"]
    return float(rows.log_softmax(dim=1)[range(len(words)), words].mean())


@pytest.mark.parametrize("case", ["beam0", "beam1", "beam2"])
def test_the_beams_are_clipcaps(case: str) -> None:
    """Texts of equal transitions tie but for rounding: the order of those is free, all else is not."""
    own = weights(f"{case}/")
    found = beam_search(
        Table(own["start_logits"], own["table_logits"]), beam=int(own["beam_size"]),
        stop=int(own["stop_index"]), length=int(own["entry_length"]), temperature=float(own["temperature"]),
    )  # fmt: skip
    expected = [[word for word in row if word >= 0] for row in own["result_best_first"].tolist()]
    scores = [mean_log_probability(own, words) for words in expected]
    for image in range(2):
        sequences = found.sequences(image)
        assert sorted(sequences) == sorted(expected)
        torch.testing.assert_close(found.scores[image].tolist(), scores, rtol=1e-9, atol=0)
        torch.testing.assert_close(
            [mean_log_probability(own, words) for words in sequences], scores, rtol=1e-9, atol=0
        )
