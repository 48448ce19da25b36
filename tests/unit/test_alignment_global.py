"""InfoNCE against its formula, and over ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ranks import run_two
from tests.small_alignment import GLOBAL, LEARNED
from vqpipe.alignment.losses import GlobalAlignment, GlobalParams
from vqpipe.errors import ParamsError
from vqpipe.params.base import validate


def loss_of(**changes: Any) -> GlobalAlignment:
    return GlobalAlignment(validate({**GLOBAL, **changes}, "global", GlobalParams))


def naive(image: Tensor, text: Tensor, temperature: float, both: bool) -> float:
    """Equation 5 in loops."""
    num = len(image)

    def similarity(i: int, j: int) -> float:
        a, b = image[i].double(), text[j].double()
        return float(a @ b / a.norm() / b.norm() / temperature)

    rows = [[similarity(i, j) for j in range(num)] for i in range(num)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    means = [
        -sum(math.log(math.exp(s[i]) / sum(map(math.exp, s))) for i, s in enumerate(side)) / num
        for side in (rows, columns)
    ]
    return sum(means) / 2 if both else means[0]


@pytest.mark.parametrize("directions", ["image_to_text", "both"])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_the_loss_is_the_formula(directions: str, temperature: float) -> None:
    torch.manual_seed(0)
    image, text = torch.randn(5, 7) * 3, torch.randn(5, 7)
    module = loss_of(directions=directions, temperature={"kind": "fixed", "value": temperature})
    loss, accuracy = module(image, text)
    assert float(loss) == pytest.approx(naive(image, text, temperature, directions == "both"), rel=1e-5)
    nearest = (torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(text).T).argmax(1)
    assert float(accuracy) == float((nearest == torch.arange(5)).float().mean())
    assert not list(module.parameters())


def test_the_image_takes_a_gradient_and_the_text_none() -> None:
    image, text = torch.randn(4, 7, requires_grad=True), torch.randn(4, 7, requires_grad=True)
    loss_of(directions="both")(image, text)[0].backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert text.grad is None


def test_a_learned_temperature_starts_and_stops_where_it_is_told() -> None:
    module = loss_of(temperature=LEARNED)
    assert float(module.temperature().detach()) == pytest.approx(0.2)
    image = torch.eye(4)
    optimiser = torch.optim.SGD(module.parameters(), lr=100.0)
    for _ in range(3):  # pairs that fit want it lower
        loss = module(image, image)[0]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(module.temperature().detach()) == pytest.approx(0.01)
    with pytest.raises(ParamsError, match="below lowest"):
        loss_of(temperature={**LEARNED, "initial": 0.001})


def test_zero_features_give_no_nan() -> None:
    image = torch.zeros(3, 7, requires_grad=True)
    loss = loss_of(directions="both")(image, torch.zeros(3, 7))[0]
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(3))
    assert image.grad is not None
    assert image.grad.isfinite().all()


TWO_RANKS = """
import torch
import vqpipe.alignment.aligner as module
from tests.small_alignment import GLOBAL, LEARNED, captions, codes, make, params
from vqpipe.quantizers import Quantized
from vqpipe.training.step import over_tensors

# Rank 0 has three words and one, rank 1 one and five: other numbers of masked tokens and of captions with a pair.
whole = captions([[[300], [301, 302], [303]], [[305]], [[306]], [[313], [314], [315], [316, 317], [318]]])
made = codes(4)
module.mask_by_ratio = lambda config, words: words >= 0  # nothing hangs on the draws

def part(share):
    text = over_tensors(whole, lambda own: own[share])
    return Quantized(made.z_q[share], made.indices[share], made.loss, {}, made.vectors), text

def aligner_of(every):
    return make(params(**{"global": {**GLOBAL, "directions": "both", "temperature": LEARNED, "gather": every}}))

def result(every, share):
    aligner = aligner_of(every).train()
    for vectors in made.vectors:
        vectors.grad = None
    loss, terms = aligner(*part(share))
    loss.backward()
    return [p.grad for p in [*aligner.parameters(), *made.vectors]], terms

alone, terms = result(True, slice(0, 4))
halves = [result(True, slice(at, at + 2))[1]["align_global"] for at in (0, 2)]
join()
share = slice(2 * rank, 2 * rank + 2)
for every in (True, False):
    own, found = result(every, share)
    for one, two in zip(alone, own, strict=True):
        assert (one is None) == (two is None)
        if every and one is not None:
            dist.all_reduce(two)
            # Rounding is of the size of a tensor's largest entries.
            torch.testing.assert_close(two / 2, one, rtol=0, atol=1e-5 * float(one.abs().max()))
    for name in terms:
        value = found[name].clone()
        dist.all_reduce(value)
        if every or "global" not in name:
            torch.testing.assert_close(value / 2, terms[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["align_global"], terms["align_global"] if every else halves[rank])
assert abs(float(halves[rank] - terms["align_global"])) > 1e-2
if rank == 0:
    aligner_of(True).eval()(*part(share))  # in eval no rank waits for another
dist.barrier()
"""


@pytest.mark.slow
def test_two_ranks(tmp_path: Path) -> None:
    """Gathered, two ranks get the loss and the gradient of one process over the whole batch, whatever each rank's
    captions hold; not gathered, InfoNCE is that of each rank's own share."""
    run_two(TWO_RANKS, tmp_path)


def test_a_learned_temperature_comes_back_from_its_lowest() -> None:
    module = loss_of(temperature={"kind": "learned", "initial": 0.01, "lowest": 0.01})
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    alike, apart = torch.eye(4), torch.eye(4).roll(1, 0)
    for _ in range(5):  # pairs that belong together ask for a lower one
        optimiser.zero_grad()
        module(alike + 0.1, alike)[0].backward()
        optimiser.step()
    assert module.temperature().item() == pytest.approx(0.01)
    for _ in range(5):
        optimiser.zero_grad()
        module(alike, apart)[0].backward()
        optimiser.step()
    assert module.temperature().item() > 0.02
