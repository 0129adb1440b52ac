"""The world as the launchers describe it."""

import pytest

from tests.tiny import world_of_one
from videomae.distributed import read_world

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
        world_of_one().on_first(fail)
