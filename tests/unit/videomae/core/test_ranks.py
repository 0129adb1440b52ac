"""Who a process is, by the variables that real launchers set."""

import pytest
import torch

from videomae.core.distributed import read_world
from videomae.core.ranks import Ranks, first_host, read_ranks

# As seen in tasks of `srun --ntasks 4` inside sbatch, and in the shells of sbatch and salloc (Slurm 22.05).
JOB = {"SLURM_JOB_ID": "1041", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "4", "SLURM_NODEID": "0"}
BATCH = {**JOB, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
TASK = {**JOB, "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}
MEETING = {"MASTER_ADDR": "n9", "MASTER_PORT": "29500"}


def test_a_task_of_srun_derives_where_to_meet() -> None:
    ranks = read_ranks(TASK)
    assert (ranks.rank, ranks.size, ranks.local_rank, ranks.address) == (3, 4, 1, "n1")
    assert ranks.port is not None
    assert 16384 <= ranks.port < 32768  # below what systems hand out
    assert read_ranks({**TASK, "SLURM_PROCID": "0"}).port == ranks.port
    assert read_ranks({**TASK, "SLURM_JOB_ID": "1042"}).port != ranks.port
    assert read_ranks({**TASK, "SLURM_STEP_ID": "1"}).port != ranks.port
    assert read_ranks({**TASK, "SLURM_STEP_NODELIST": "n2"}).address == "n2"
    assert (read_ranks(TASK | MEETING).address, read_ranks(TASK | MEETING).port) == ("n9", 29500)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {**JOB, "SLURM_NTASKS": "1"},
        {**TASK, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_one_process(environment: dict[str, str]) -> None:
    assert read_ranks(environment) == Ranks(0, 1, 0)


@pytest.mark.parametrize("environment", [BATCH, JOB, {**BATCH, "SLURM_STEP_ID": "4294967290"}])
def test_a_shell_of_slurm_is_not_taken_for_a_task(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"would wait for 3 others; type `srun python"):
        read_ranks(environment)


@pytest.mark.parametrize("environment", [OPEN_MPI, MPICH])
def test_mpi(environment: dict[str, str]) -> None:
    assert (read_ranks(environment | MEETING).rank, read_ranks(environment | MEETING).size) == (1, 2)
    with pytest.raises(ValueError, match="mpirun -x MASTER_ADDR"):
        read_ranks(environment)
    with pytest.raises(ValueError, match="set, but not"):
        read_ranks(dict(list(environment.items())[:2]) | MEETING)


def test_mpirun_inside_slurm_counts_first() -> None:
    assert read_ranks({**TASK, **OPEN_MPI, **MEETING}).size == 2
    assert read_ranks({**BATCH, **MPICH, **MEETING}).size == 2
    half = {name: value for name, value in MPICH.items() if name != "MPI_LOCALRANKID"}  # as srun --mpi=pmi2 sets them
    assert read_ranks({**TASK, **half}) == read_ranks(TASK)


@pytest.mark.parametrize("environment", [TASK, OPEN_MPI, {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}])
def test_an_address_of_ipv6_loses_its_brackets(environment: dict[str, str]) -> None:
    for address in ("fd00::1", "[fd00::1]"):
        assert read_ranks({**environment, **MEETING, "MASTER_ADDR": address}).address == "fd00::1"


def test_torchrun_inside_slurm_or_mpi_counts_first() -> None:
    inner = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    assert read_ranks({**TASK, **OPEN_MPI, **inner}) == Ranks(0, 2, 0, "here", 1)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n[08-11,20],login", "n08"),
        ("n1,n2", "n1"),
        ("rack[1-2]-n[1-4]", "rack1-n1"),
        ("single", "single"),
        ("a-b[3]-x,c", "a-b3-x"),
    ],
)
def test_the_first_host_of_a_shortened_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**TASK, "SLURM_PROCID": "x"}, "SLURM_PROCID is 'x', wanted a number"),
        ({**TASK, "SLURM_PROCID": "4"}, "rank 4 of 4 processes cannot be"),
        ({name: value for name, value in TASK.items() if name != "SLURM_LOCALID"}, "SLURM_LOCALID not set"),
        ({name: value for name, value in TASK.items() if name != "SLURM_JOB_NODELIST"}, "scontrol show hostnames"),
        ({**TASK, "SLURM_JOB_NODELIST": ","}, "got the node list ','"),
    ],
)
def test_half_a_set_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        read_ranks(environment)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    own = {**TASK, "CUDA_VISIBLE_DEVICES": "3"}
    assert read_world(own).device == torch.device("cuda", 0)
    with pytest.raises(ValueError, match="local rank 1 has no GPU: 1 visible"):
        read_world({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **MEETING, "CUDA_VISIBLE_DEVICES": "0"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert read_world({**TASK, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}).device == torch.device("cuda", 1)
