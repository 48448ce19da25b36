"""The diffusion transformer against outputs of DiT's code with recorded weights (tests/data), and published sizes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.latent_priors import equal, recorded
from vqpipe.models import conditioning
from vqpipe.models.conditioning import ABSENT, sinusoid
from vqpipe.models.dit import DiT, DiTParams, grid_positions
from vqpipe.params.base import validate
from vqpipe.priors.latent import guided

DATA = recorded("dit")
NAMES = {
    r"x_embedder\.proj": "embed",
    r"t_embedder\.mlp": "time.mlp",
    r"y_embedder\.embedding_table": "labels.table",
    r"attn\.qkv": "attention.qkv",
    r"attn\.proj": "attention.out",
    r"mlp\.fc1": "mlp.0",
    r"mlp\.fc2": "mlp.2",
    r"final_layer\.linear": "head",
    r"final_layer\.adaLN_modulation\.1": "modulation.linear",
    r"adaLN_modulation\.1": "modulation.linear",
}


def scalar(name: str) -> int:
    return int(DATA[f"cfg/{name}"])


def network() -> DiT:
    """The recorded network."""
    shape = {
        "kind": "dit", "patch": scalar("patch_size"), "width": scalar("hidden_size"), "num_layers": scalar("depth"),
        "num_heads": scalar("num_heads"), "mlp_ratio": float(DATA["cfg/mlp_ratio"]),
    }  # fmt: skip
    channels, grid = scalar("in_channels"), (scalar("input_size"),) * 2
    outputs = channels * (2 if scalar("learn_sigma") else 1)
    made = DiT(validate(shape, "network", DiTParams), grid, channels, outputs, scalar("num_classes"), 0)
    state = {}
    for key, value in DATA.items():
        if key.startswith("sd/") and key != "sd/pos_embed":
            name = key.removeprefix("sd/")
            for theirs, ours in NAMES.items():
                name = re.sub(theirs, ours, name)
            state[name] = value
    made.load_state_dict(state)
    return made.eval()


def labels(rows: Tensor) -> Tensor:
    """Their last row is the null class."""
    return torch.where(rows == scalar("num_classes"), ABSENT, rows)


@pytest.fixture
def recorded_sinusoid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network gets the recorded sinusoid of the time, so that the rest is compared to the last digits.

    A float32 frequency that another processor's exponential rounds otherwise, times a step of 999, is an angle that is
    off by up to 6e-5, in the reference code as in ours.
    """
    known = {tuple(DATA[name].tolist()): DATA[f"{name}_sinusoid_256"] for name in ("t", "t_fractional")}
    monkeypatch.setattr(conditioning, "sinusoid", lambda times, dim: known[tuple(times.tolist())])


def same_sinusoid(times: str, dim: int, name: str) -> None:
    """Equal to a part in 1e5, and to what one unit in the last place of a frequency does to the angle."""
    found, expected = sinusoid(DATA[times], dim), DATA[name]
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    away = DATA[times].float()[:, None] * torch.finfo(torch.float32).eps
    assert bool(((found - expected).abs() <= 1e-5 + away).all())


@pytest.mark.usefixtures("recorded_sinusoid")
@pytest.mark.parametrize("times", ["t", "t_fractional"])
@torch.no_grad()
def test_outputs_are_the_same(times: str) -> None:
    made, known = network(), labels(DATA["y"])
    where = "out" if times == "t" else "out_t_fractional"
    equal(made(DATA["x"], DATA[times], known), DATA[where])
    equal(made.double()(DATA["x"].double(), DATA[times], known), DATA[f"{where}_f64"])


@torch.no_grad()
def test_sinusoids_are_the_same() -> None:
    same_sinusoid("t", 256, "t_sinusoid_256")
    same_sinusoid("t_fractional", 256, "t_fractional_sinusoid_256")
    same_sinusoid("t", 7, "t_sinusoid_odd7")


@pytest.mark.usefixtures("recorded_sinusoid")
@torch.no_grad()
def test_parts_are_the_same() -> None:
    made, x = network(), DATA["x"]
    time, label = made.time(DATA["t"]), made.labels(labels(DATA["y"]))
    equal(time, DATA["t_embed"])
    equal(label, DATA["y_embed"])
    tokens = made.embed(x).flatten(2).transpose(1, 2)
    equal(tokens, DATA["patch_embed"])
    equal(made.positions, DATA["sd/pos_embed"][0])
    tokens = tokens + made.positions
    for number, block in enumerate(made.blocks):
        tokens = block(tokens, time + label)
        equal(tokens, DATA[f"hidden/block{number}"])


@pytest.mark.parametrize("key", [key for key in DATA if key.startswith("pos_embed_2d/")])
def test_positions_are_the_same(key: str) -> None:
    width, side = (int(part) for part in re.findall(r"(?:dim|grid)(\d+)", key))
    equal(grid_positions((side, side), width), DATA[key])


@torch.no_grad()
def test_guidance_of_their_sampler_is_the_same() -> None:
    x, times, known = (DATA[f"cfg_guidance/{name}"] for name in "xty")
    half = len(x) // 2
    doubled = torch.cat([x[:half]] * 2)
    conditional, null = network()(doubled, times, labels(known)).chunk(2)
    scale, expected = float(DATA["cfg_guidance/scale"]), DATA["cfg_guidance/out"]
    equal(guided(conditional, null, scale, 3), expected[:half])


@pytest.mark.parametrize(
    ("shape", "millions"),
    [((384, 12, 6), 33), ((768, 12, 12), 130), ((1024, 24, 16), 458), ((1152, 28, 16), 675)],
    ids=["S/2", "B/2", "L/2", "XL/2"],
)
def test_published_sizes(shape: tuple[int, int, int], millions: int) -> None:
    width, layers, heads = shape
    config: Any = DiTParams(
        kind="dit", patch=2, width=width, num_layers=layers, num_heads=heads, mlp_ratio=4.0
    )
    with torch.device("meta"):
        made = DiT(config, (32, 32), 4, 8, 1000, 0)
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.7)
