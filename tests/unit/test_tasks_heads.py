"""What heads are built of: standardised channels, squares of positions, and words of a user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small_tasks import frozen
from tests.tiny import TOKENIZER
from vqpipe.errors import DataError, MismatchError
from vqpipe.params.base import validate
from vqpipe.quantizers import build
from vqpipe.tasks.heads import CodeTokens, HeadParams, JointTransformer, Standardise, square_of, standardise
from vqpipe.tasks.inputs import Codes, CodeSpace, FrozenInputs
from vqpipe.tasks.words import PAD, Vocabulary
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams


def inputs_of(quantizer: dict[str, object], codes: torch.Tensor) -> FrozenInputs:
    settings = validate({**TOKENIZER, "quantizer": quantizer}, "tokenizer", TokenizerParams)
    return FrozenInputs(Codes(Tokenizer(settings, build(settings.quantizer, None)).eval()), codes)


def test_channels_have_mean_0_and_deviation_1_over_the_training_images() -> None:
    inputs = frozen()
    part = Standardise(4)
    standardise(part, inputs)
    z_q = part(inputs.batch(np.arange(len(inputs))).z_q)
    torch.testing.assert_close(z_q.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(z_q.std(dim=(0, 2, 3), unbiased=False), torch.ones(4))


def test_every_code_stays_distinct() -> None:
    """A norm of each position would make one of the codes (1, 1) and (2, 2)."""
    fsq = {"kind": "fsq", "dim": 4, "levels": [8, 5, 5, 5], "margin": 0.001, "shift": "atanh"}
    codes = torch.arange(1000, dtype=torch.int32)
    inputs = inputs_of(fsq, torch.cat([codes, codes[:24]]).reshape(64, 1, 4, 4))
    part = Standardise(4)
    standardise(part, inputs)
    seen = part(inputs.batch(np.arange(64)).z_q).movedim(1, -1).reshape(-1, 4)[:1000]
    assert len(seen.round(decimals=4).unique(dim=0)) == 1000


def test_a_channel_that_does_not_vary_stays_finite() -> None:
    inputs = frozen(collapsed=True)
    part = Standardise(4)
    standardise(part, inputs)
    assert not part(inputs.batch([0]).z_q).any()
    assert torch.equal(part.std, torch.ones(4, 1, 1))


def test_positions_are_joined_in_squares() -> None:
    fine, coarse = CodeSpace((16, 16), 4, (8,), False, ()), CodeSpace((8, 8), 12, (), False, ())
    assert (square_of(fine, 8), square_of(coarse, 8), square_of(fine, None)) == (2, 1, 1)
    assert CodeTokens(fine, 8, 8).num_tokens == CodeTokens(coarse, 8, 8).num_tokens == 64
    with pytest.raises(MismatchError, match="does not divide"):
        square_of(CodeSpace((7, 7), 4, (), False, ()), 4)


def test_padding_after_a_text_changes_nothing() -> None:
    space = CodeSpace((4, 4), 4, (8,), False, ())
    params = HeadParams(width=8, num_layers=1, num_heads=2, dropout=0.0, side=None)
    head = JointTransformer(space, params, 10, 6).eval()
    z_q, words = torch.randn(2, 4, 4, 4), torch.tensor([[4, 5, 6], [7, 8, PAD]])
    padded = torch.nn.functional.pad(words, (0, 3), value=PAD)
    torch.testing.assert_close(head(z_q, padded), head(z_q, words))


def test_a_user_s_words_are_known_or_named() -> None:
    words = Vocabulary.of(["what color is the sky?"])
    numbers, notes = words.asked(["What color is the lorry?", "the sky"], 10)
    assert notes == [" (unknown: lorry)", ""]
    assert words.decode(numbers[0].tolist()) == "what color is the <unk> ?"
    assert words.asked(["What, the sky!"], 10)[1] == [""], "signs are no words"
    with pytest.raises(DataError, match="no word of the text is known"):
        words.asked(["lorries"], 10)
    with pytest.raises(DataError, match="no word of the text is known"):
        words.asked(["lorries?"], 10)  # the sign is known


def test_one_image_has_no_other(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no other one"):
        frozen(texts=[[[1]]]).of_other_images(0)
