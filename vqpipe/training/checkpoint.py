"""The state of a training run in one safetensors file: a resumed run continues as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vqpipe.artifacts.checkpoints import keeping_previous
from vqpipe.artifacts.spec import TensorSpec
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.runtime.distributed import barrier, gather, is_main, rank

CHECKPOINT = TensorSpec(
    "checkpoint", 1, {}, stage="tokenizer", open=True, about="a training run between two steps"
)


class AveragedWeights:
    """Exponential moving average of a module's floating-point state (Polyak averaging).

    The decay at update n is min(decay, (1 + n) / (10 + n)), so that early weights are forgotten. Entries that are
    not floating point are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value.to(self.weights[name].dtype), 1 - decay)
            else:
                self.weights[name].copy_(value)


def optimizer_tensors(name: str, optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimiser's per-parameter state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer/{name}/{index}/{key}": torch.as_tensor(value)
        for index, entry in state.items()
        for key, value in entry.items()
    }


def load_optimizer(name: str, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put named tensors back in the layout of their parameters, as the optimiser made them: the order of sums, and
    so the last bit, may depend on it. Hyper-parameters are not touched, the schedule sets them."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    prefix = f"optimizer/{name}/"
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, field = key[len(prefix) :].split("/")
            like = parameters[int(index)]
            if value.shape == like.shape:
                value = torch.empty_like(like, dtype=value.dtype).copy_(value)
            state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class TrainingState:
    """The mutable state of a run: module, optimisers, average, scaler, random state, and the step."""

    def __init__(
        self,
        module: nn.Module,
        optimizers: dict[str, Optimizer],
        average: AveragedWeights | None,
        scaler: torch.amp.GradScaler,
        device: torch.device,
    ) -> None:
        self.module, self.optimizers, self.average, self.scaler = module, optimizers, average, scaler
        self.device = device
        self.step = 0
        self.skipped = 0
        """Batches skipped after roll-backs: step s trains on batch s + skipped."""
        self.rollbacks = 0
        self.rows: list[dict[str, float]] = []
        self.window: dict[str, list[float]] = {}
        """Sum and count of each term since the last row of the curves."""

    def save(self, path: Path) -> None:
        """Write the checkpoint; atomic, no pickle, with a checksum. The one at `path` becomes the one before.

        All ranks call it: rank 0 writes, with everyone's random state.
        """
        random = self._random()
        if not is_main():
            return barrier()
        tensors = {f"module/{name}": value for name, value in self.module.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            tensors |= optimizer_tensors(name, optimizer)
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.weights.items()}
        tensors |= random
        facts: dict[str, Any] = {
            "step": self.step, "skipped": self.skipped, "rollbacks": self.rollbacks, "rows": self.rows,
            "window": self.window, "scaler": self.scaler.state_dict(),
            "average_updates": self.average.updates if self.average else 0,
        }  # fmt: skip
        with keeping_previous(path):
            write_tensors(path, CHECKPOINT, tensors, facts, sealed=True)
        return barrier()

    def _random(self) -> dict[str, Tensor]:
        """The random state of every rank: `random/cpu` of rank 0, `random/cpu/1` and so on of the others."""
        states = {"random/cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["random/cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            name + (f"/{number}" if number else ""): one
            for name, state in states.items()
            for number, one in enumerate(gather(state[None].to(self.device)).cpu())
        }

    def load(self, path: Path) -> None:
        """Restore a checkpoint of the same run."""
        tensors, facts = read_tensors(path, CHECKPOINT)
        self.module.load_state_dict(_under("module/", tensors))
        for name, optimizer in self.optimizers.items():
            load_optimizer(name, optimizer, tensors)
        if self.average is not None:
            for name, value in _under("average/", tensors).items():
                self.average.weights[name].copy_(value)
            self.average.updates = facts["average_updates"]
        own = f"/{rank()}" if rank() else ""
        if f"random/cpu{own}" in tensors:  # absent where the run resumes with more ranks than it had
            torch.set_rng_state(tensors[f"random/cpu{own}"])
        if f"random/cuda{own}" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"random/cuda{own}"], self.device)
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.step, self.skipped, self.rollbacks = facts["step"], facts["skipped"], facts["rollbacks"]
        self.rows, self.window = facts["rows"], facts["window"]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
