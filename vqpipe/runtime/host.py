"""What the host can know of tensors on a device without waiting for it."""

from __future__ import annotations

import torch
from jaxtyping import Int, Int64
from torch import Tensor


class HostScalar:
    """The host's copy of a scalar tensor, read from the device only after something else has written to the tensor.

    `load_state_dict`, `.to(device)` and every write that `written` sees are noticed. Not part of a module's state.
    """

    def __init__(self) -> None:
        self._key: tuple[int, int, str] | None = None
        self._value: float = 0.0

    def get(self, tensor: Tensor) -> float:
        """The tensor's value; booleans and whole numbers are exact."""
        key = written(tensor)
        if key is None or key != self._key:
            self._value, self._key = float(tensor.item()), key
        return self._value

    def set(self, tensor: Tensor, value: float) -> None:
        """Write a value to the tensor and remember it."""
        tensor.fill_(value)
        self._value, self._key = float(value), written(tensor)


def written(tensor: Tensor) -> tuple[int, int, str] | None:
    """A key that changes with every write to a tensor that PyTorch counts; None for one made in inference mode, which
    counts none.

    Not seen, since only the device's memory shows them: writes through `tensor.data` (`p.data.copy_(..)`), and those
    to memory that is shared with NumPy. `p.data = other` is seen, by the address.
    """
    if tensor.is_inference():
        return None
    return tensor.data_ptr(), tensor._version, str(tensor.device)


def send(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device. On CUDA they are copied from pinned memory: from other memory the host would wait
    for the copy, and so for all work before it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def count_codes(codes: Int[Tensor, " n"], num_codes: int) -> Int64[Tensor, " k"]:
    """Uses of each code. `torch.bincount` would wait for the device, to learn how many bins there are."""
    ones = torch.ones_like(codes, dtype=torch.int64)
    return torch.zeros(num_codes, dtype=torch.int64, device=codes.device).index_add_(0, codes, ones)
