"""Random streams that depend on a seed and a name, never on the order in which they are made."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream called `names` under `seed`; the same on every machine and run."""
    text = "\0".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_rng(seed: int, *names: object) -> np.random.Generator:
    """A numpy generator (PCG64) for the named stream."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))


def python_rng(seed: int, *names: object) -> random.Random:
    """A `random.Random` for the named stream."""
    return random.Random(derive(seed, *names))


def torch_rng(seed: int, *names: object) -> torch.Generator:
    """A CPU torch generator for the named stream."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def seed_everything(seed: int, *names: object) -> None:
    """Seed the global generators of torch (all devices), numpy and random; layers draw their weights from them."""
    import torch

    value = derive(seed, *names)
    torch.manual_seed(value)
    np.random.seed(value % (1 << 32))
    random.seed(value)
