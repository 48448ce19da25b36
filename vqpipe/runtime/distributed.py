"""Ranks under torchrun. Without torchrun there is one rank, and every call here is cheap."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


def rank() -> int:
    """This process's number in the group, 0 without one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Processes in the group, 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """This process's number on its machine, as torchrun says, or 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Whether this process writes what all ranks share."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Join the group that torchrun announces in the environment, gloo on CPU and NCCL on CUDA; leave it at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    use_cuda = torch.cuda.is_available() and os.environ.get("VQPIPE_DEVICE", "cuda").startswith("cuda")
    if use_cuda:
        torch.cuda.set_device(local_rank())
    dist.init_process_group("nccl" if use_cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over ranks in place and return it."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Average the gradients of all ranks in place, in one collective; a missing gradient counts as zero."""
    if world_size() == 1:
        return
    params = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in params])
    dist.all_reduce(flat)
    flat /= world_size()
    for param, piece in zip(params, torch.split(flat, [p.numel() for p in params]), strict=True):
        param.grad = piece.view_as(param).clone()


def broadcast_module(module: torch.nn.Module) -> None:
    """Give every rank the weights and buffers of rank 0."""
    if dist.is_initialized():
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.data, src=0)
