"""Ranks under torchrun. Without torchrun there is one rank, and every call here is cheap."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


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
    use_cuda = torch.cuda.is_available() and (os.environ.get("VQPIPE_DEVICE") or "cuda").startswith("cuda")
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


def average(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over ranks, the tensor itself where there is one rank. Without gradient."""
    return all_reduce_sum(tensor.detach().clone()) / world_size() if world_size() > 1 else tensor


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks in rank order, each rank giving as many; the tensor itself where there is one rank.

    Without gradient.
    """
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def gather_to_main(value: T) -> list[T]:
    """The picklable values of all ranks in rank order, on rank 0; nothing on the others. With one rank, its own."""
    if world_size() == 1:
        return [value]
    parts: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, parts)
    return parts or []


def from_main(make: Callable[[], T]) -> T:
    """What `make` gives on rank 0, where alone it is called; the other ranks get a copy, pickled."""
    box: list[Any] = [make() if is_main() else None]
    if world_size() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def broadcast(tensor: torch.Tensor) -> torch.Tensor:
    """Give every rank rank 0's values of a tensor, in place, and return it."""
    if dist.is_initialized():
        dist.broadcast(tensor.data, src=0)
    return tensor


def own_share(num_items: int) -> slice:
    """This rank's part of `num_items` in order, which the ranks share evenly."""
    share = num_items // world_size()
    return slice(rank() * share, (rank() + 1) * share)


def data_parallel(module: torch.nn.Module, unused: bool) -> torch.nn.Module:
    """The module with its parameters' gradients averaged over ranks in buckets, while `backward` still runs.

    The module itself where there is one rank. The module may not have buffers (such as batch norm's): they are not
    synchronised here.

    Args:
        module: with the parameters to average.
        unused: whether a loss may leave parameters without a gradient. They are then looked for in every pass, and one
            that no rank's loss reaches keeps no gradient, as in one process. Without it such a parameter is an error.
    """
    if world_size() == 1:
        return module
    assert not list(module.buffers())
    return torch.nn.parallel.DistributedDataParallel(
        module,
        find_unused_parameters=unused,
        gradient_as_bucket_view=True,
        init_sync=False,
    )


def synchronised_norms(module: torch.nn.Module) -> torch.nn.Module:
    """Let batch norms take their statistics from the batch of all ranks, where there are several on CUDA.

    torch has this for CUDA alone. Under gloo each rank normalises by the statistics of its own share, so that the
    result depends on the number of ranks; group norm does not.
    """
    if world_size() == 1 or dist.get_backend() != "nccl":
        return module
    converted: torch.nn.Module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return converted


def broadcast_module(module: torch.nn.Module) -> None:
    """Give every rank the weights and buffers of rank 0."""
    for tensor in [*module.parameters(), *module.buffers()]:
        broadcast(tensor)
