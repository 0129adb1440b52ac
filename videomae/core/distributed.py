"""The process group: rank, world size, device, and the collectives that the project uses.

`videomae.core.ranks` reads the launcher's variables; without any, the world is one process. No other module calls
torch.distributed. Every collective is a no-op in a world of one.
"""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import resource
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed
from torch import Tensor

from videomae.core.errors import UserError, listing
from videomae.core.ranks import Ranks, read_ranks
from videomae.core.signals import bounded

T = TypeVar("T")
_COLLECTIVE_TIMEOUT = 1800.0  # seconds
_deals = itertools.count()  # calls of World.deal; the same on every rank
_SHUTDOWN_TIMEOUT = 60.0  # seconds for leaving the others and for what libraries do at the end


@dataclass(frozen=True)
class World:
    """This process in a world of `size` processes; rank 0 writes what is written once."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    address: str | None = None  # rendezvous address; None in a world of one
    port: int | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.size > 1:
            torch.distributed.barrier()

    def all_gather_scalar(self, value: Tensor) -> Tensor:
        """Return every rank's scalar as float32 in rank order, on this rank's device, without synchronizing it."""
        values = value.new_zeros(self.size, dtype=torch.float32)
        values[self.rank] = value.detach()
        self.all_reduce(values)
        return values

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over all ranks, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)

    def all_gather_into(self, part: Tensor, *, into: Tensor) -> None:
        """Fill `into` with every rank's 1-D `part` in rank order, bit for bit; all parts have the same length."""
        if self.size == 1:
            into.copy_(part)
        else:
            torch.distributed.all_gather(list(into.chunk(self.size)), part)

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return every rank's picklable `value` in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's picklable `value` on every rank."""
        if self.size == 1:
            return value
        values = [value if self.is_main else None]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def run_on_main(self, action: Callable[[], T]) -> T:
        """Run `action` on rank 0 and return its result on every rank; an error is raised on every rank too."""
        result, fault = None, None
        if self.is_main:
            try:
                result = action()
            except Exception as error:  # of any kind: the other ranks must raise it too
                fault = error if self.size == 1 else _picklable(error)
        result, fault = self.broadcast_object((result, fault))
        if fault is not None:
            raise fault
        return cast(T, result)

    def main_only(self, action: Callable[[], object]) -> None:
        """Run `action` on rank 0 while the others wait; errors as in `run_on_main`."""
        self.run_on_main(lambda: (action(), None)[1])

    def run_all_or_raise(self, action: Callable[[], T]) -> T:
        """Run `action`, which is local, and return its result; an error on any rank is raised on every rank."""
        result, fault = None, None
        try:
            result = action()
        except Exception as error:  # as in `run_on_main`
            if self.size == 1:
                raise
            fault = _picklable(error)
        faults = [found for found in self.all_gather_object(fault) if found is not None]
        if faults:
            raise faults[0]
        return cast(T, result)

    def deal(self, items: Iterable[T]) -> Iterator[T]:
        """Yield each item on one rank, the next one on the rank that asks first; all ranks must give the same items."""
        if self.size == 1:
            yield from items
            return
        store = torch.distributed.distributed_c10d._get_default_store()
        dealt, key = list(items), f"deal/{next(_deals)}"
        while (number := store.add(key, 1)) <= len(dealt):
            yield dealt[number - 1]

    def average_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Replace floating-point tensors by their mean over all ranks, in place."""
        for tensor in tensors:
            if self.size > 1 and tensor.is_floating_point():
                torch.distributed.all_reduce(tensor)
                tensor /= self.size

    def any_rank(self, flags: Sequence[bool]) -> tuple[bool, ...]:
        """Return for each flag whether it is set on at least one rank, in one exchange.

        Dissemination (Hensgen, Finkel and Manber 1988): each rank sends what it knows to the rank 1, 2, 4, ... ahead,
        which takes log2(size) messages. Gloo's all-reduce passes around the ring twice.
        """
        found = torch.tensor([int(flag) for flag in flags], dtype=torch.uint8)
        distance = 1
        while distance < self.size:
            heard = torch.empty_like(found)
            sending = torch.distributed.isend(found, (self.rank + distance) % self.size)
            torch.distributed.recv(heard, (self.rank - distance) % self.size)
            assert sending is not None, "every rank belongs to the group"
            sending.wait()
            found = found | heard
            distance *= 2
        return tuple(bool(flag) for flag in found.tolist())

    def all_reduce_max(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the maximum over all ranks of each of `values`, in one collective."""
        if self.size == 1:
            return tuple(values)
        found = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        return tuple(found.tolist())


def read_world(environment: Mapping[str, str]) -> World:
    """Read the world from the environment variables of the launcher.

    Raises:
        UserError: a launcher's variables are only partly set, or there are GPUs but none for this process.
    """
    ranks = read_ranks(environment)
    return World(ranks.rank, ranks.size, ranks.local_rank, _device(ranks, environment), ranks.address, ranks.port)


def _device(ranks: Ranks, environment: Mapping[str, str]) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if count == 1 and ranks.tasks_own_gpus and "," not in environment.get("CUDA_VISIBLE_DEVICES", ","):
        return torch.device("cuda", 0)  # the task sees one GPU, its own
    if ranks.local_rank >= count:
        raise UserError(f"local rank {ranks.local_rank} has no GPU: {count} visible; start one process per GPU")
    return torch.device("cuda", ranks.local_rank)


@contextmanager
def distributed_context(environment: Mapping[str, str], *, timeout: float = _COLLECTIVE_TIMEOUT) -> Iterator[World]:
    """Yield the world of `environment` with its process group initialized; destroy the group on exit.

    In a world of one, the group is initialized only when an engine needs it.
    """
    world = read_world(environment)
    try:
        if world.size > 1:
            init_distributed(world, timeout=timeout)
            check_devices(world.all_gather_object((socket.gethostname(), world.device.type)))
        elif world.device.type == "cuda":
            torch.cuda.set_device(world.device)
        yield world
    finally:
        if torch.distributed.is_initialized():
            with bounded(_SHUTDOWN_TIMEOUT):  # ranks that died do not answer
                torch.distributed.destroy_process_group()


def check_devices(found: Sequence[tuple[str, str]]) -> None:
    """Check that all ranks or no ranks have a GPU; `found` holds each rank's host and device type.

    Raises:
        UserError: only some ranks have a GPU; the message names the others.
    """
    if len({kind for _, kind in found}) > 1:
        odd = [f"{rank} on {host}" for rank, (host, kind) in enumerate(found) if kind != "cuda"]
        raise UserError(
            f"{len(odd)} of {len(found)} ranks see no GPU: rank {listing(odd, 8)}. Is the GPU driver of that machine "
            "broken? Run nvidia-smi there, or leave the machine out."
        )


def init_distributed(world: World, *, timeout: float = _COLLECTIVE_TIMEOUT) -> None:
    """Initialize the default process group once: NCCL for CUDA tensors, gloo for tensors on the host.

    A collective that takes longer than `timeout` seconds raises an error.
    """
    if torch.distributed.is_initialized():
        return
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    # DeepSpeed needs a process group and these variables even in a world of one.
    os.environ["MASTER_ADDR"] = world.address or "127.0.0.1"
    os.environ["MASTER_PORT"] = str(world.port or 0)  # 0: torch takes a free one
    device = world.local_rank if world.device.index is None else world.device.index
    for name, value in (("RANK", world.rank), ("WORLD_SIZE", world.size), ("LOCAL_RANK", device)):
        os.environ[name] = str(value)
    if "OMPI_COMM_WORLD_LOCAL_RANK" in os.environ:  # DeepSpeed refuses one that differs from LOCAL_RANK
        os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] = str(device)
    _allow_many_files()
    torch.distributed.init_process_group(
        backend="cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo",
        rank=world.rank,
        world_size=world.size,
        timeout=timedelta(seconds=timeout),
    )


def end_process(code: int) -> NoReturn:
    """End a process of a multi-process job without the interpreter's teardown.

    During teardown, gloo's threads sometimes abort a process whose work is done ("terminate called without an active
    exception", in about one of 200 two-process runs), which a launcher counts as a failed job.
    """
    with bounded(_SHUTDOWN_TIMEOUT):
        atexit._run_exitfuncs()  # what libraries registered, such as the end of loader workers
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # the reader may be gone
                stream.flush()
    os._exit(code)


def _picklable(error: Exception) -> Exception:
    """Return `error`, or an OSError with its text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception may hold anything, and its class may ask for any arguments
        return OSError(str(error))
    return error


def _allow_many_files() -> None:
    """Raise the limit on open files to the hard limit: gloo connects every pair of ranks."""
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
