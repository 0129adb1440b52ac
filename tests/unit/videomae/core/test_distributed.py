"""The world as the launchers describe it."""

import math
import os
import resource
import time

import pytest
import torch

from tests.processes import run_processes
from tests.tiny import world_of_one
from videomae.core.distributed import check_devices, distributed_context, init_distributed, read_world

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "0", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "0", "MASTER_ADDR": "host", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "rank", "size"), [(TORCHRUN, 3, 8), (SLURM, 5, 6), ({}, 0, 1), ({"SLURM_NTASKS": "1"}, 0, 1)]
)
def test_the_world_of_each_launcher(environment: dict[str, str], rank: int, size: int) -> None:
    world = read_world(environment)
    assert (world.rank, world.size) == (rank, size)


@pytest.mark.parametrize("missing", ["LOCAL_RANK", "MASTER_ADDR", "WORLD_SIZE"])
def test_half_a_launcher_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match=f"not {missing}"):
        read_world({name: value for name, value in TORCHRUN.items() if name != missing})


def test_slurm_without_an_address_is_told_what_to_export() -> None:
    with pytest.raises(ValueError, match="scontrol show hostnames"):
        read_world({name: value for name, value in SLURM.items() if name != "MASTER_ADDR"})


def test_an_error_on_the_first_rank_is_raised() -> None:
    def fail() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        world_of_one().main_only(fail)


class Unpicklable(Exception):
    """Cannot go to another process as it is."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(f"{text} {number}")


def test_values_errors_and_votes_reach_every_rank() -> None:
    assert run_processes(3, "tests.unit.videomae.core.test_distributed").count("agreed") == 3


def test_one_process_gets_all_that_is_dealt() -> None:
    assert list(world_of_one().deal("abc")) == ["a", "b", "c"]


def test_ranks_without_a_gpu_among_others_are_named() -> None:
    check_devices([("a", "cuda"), ("b", "cuda")])
    check_devices([("a", "cpu"), ("b", "cpu")])
    with pytest.raises(ValueError, match=r"1 of 3 ranks see no GPU: rank 1 on b\..*nvidia-smi"):
        check_devices([("a", "cuda"), ("b", "cpu"), ("c", "cuda")])


@pytest.mark.usefixtures("joining")
def test_joining_settles_open_files_and_the_local_rank_that_deepspeed_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "5")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        init_distributed(world_of_one())
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
        assert os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] == os.environ["LOCAL_RANK"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main() -> None:
    def fail() -> None:
        raise Unpicklable("disk", 7)

    with distributed_context(os.environ) as world:
        assert world.broadcast_object({"rank": world.rank}) == {"rank": 0}
        with pytest.raises(OSError, match="disk 7"):
            world.main_only(fail)
        with pytest.raises(OSError, match="disk 7"):
            world.run_all_or_raise(lambda: fail() if world.rank == 1 else None)
        assert world.run_all_or_raise(lambda: world.rank) == world.rank
        for chosen in range(world.size):
            flags = (world.rank == chosen, False, world.rank != chosen, True)
            assert world.any_rank(flags) == (True, False, True, True)
        part, whole = torch.tensor([world.rank, -0.0, math.nan]), torch.empty(3 * world.size)
        world.all_gather_into(part, into=whole)
        assert whole.view(-1, 3)[:, 0].tolist() == list(range(world.size))
        assert torch.equal(whole.view(-1, 3)[:, 1:].view(torch.int32), part[1:].view(torch.int32).expand(3, 2))
        for count in (0, 2, 7):
            mine = []
            for item in world.deal(range(count)):
                mine.append(item)
                time.sleep(1.0 if world.is_main else 0.0)
            every = world.all_gather_object(mine)
            assert sorted(item for items in every for item in items) == list(range(count))
            assert len(every[0]) <= 1  # the others took the rest while this rank was busy
        print("agreed", flush=True)


if __name__ == "__main__":
    main()
