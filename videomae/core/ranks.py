"""Rank, world size and rendezvous address from the launcher's environment variables.

Pure functions of the environment. The first launcher whose variables are set is used, in this order:

    RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT       torchrun, deepspeed, or by hand
    OMPI_COMM_WORLD_*, MV2_COMM_WORLD_*, PMI_*               mpirun, with MASTER_ADDR and MASTER_PORT beside them
    SLURM_PROCID SLURM_STEP_NUM_TASKS SLURM_LOCALID          a task of srun; the rendezvous is derived if it is unset
    nothing                                                  one process

A partial set is an error: the process would wait for ranks that never come. srun --mpi=pmi2 sets a part of PMI_*, so a
partial MPI set is considered after Slurm's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from videomae.core.errors import UserError

_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)
_NO_TASK = {"4294967290", "4294967291", "4294967292"}  # numbers of steps that are shells: interactive, batch, extern
_FIRST_PORT, _PORTS = 16384, 16000  # below the ports that systems hand out by themselves
_HOSTS = re.compile(r"([^\[\],]+(?:\[[^\]]+\][^\[\],]*)*|(?:\[[^\]]+\][^\[\],]*)+)(?:,|$)")


@dataclass(frozen=True)
class Ranks:
    """One process of `size`; address and port are None in a world of one."""

    rank: int
    size: int
    local_rank: int
    address: str | None = None
    port: int | None = None
    tasks_own_gpus: bool = False  # the launcher may show each process its own GPU alone, then as number 0


def read_ranks(environment: Mapping[str, str]) -> Ranks:
    """Read the ranks of this process from `environment`.

    Raises:
        UserError: a launcher's variables are partly set or invalid, or the process runs in a Slurm shell without srun.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return _by_launcher(environment)
    for names in _MPI:
        if all(name in environment for name in names):  # Slurm's variables describe the task of mpirun
            return _by_mpi(environment, names)
    if "SLURM_PROCID" in environment or _number(environment, "SLURM_NTASKS", "1") > 1:
        return _by_slurm(environment)
    for names in _MPI:
        if any(name in environment for name in names[:2]):
            return _by_mpi(environment, names)
    return Ranks(0, 1, 0)


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm host list, such as `n[08-11,20],login` or `rack[1-2]-n[1-4]`.

    Raises:
        UserError: the list is empty or malformed.
    """
    match = _HOSTS.match(nodes)
    if match is None:
        raise UserError(f"got the node list {nodes!r}, wanted one such as n[1-3,7]; export MASTER_ADDR=HOST instead")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", match[1])


def plain_address(address: str) -> str:
    return address[1:-1] if address.startswith("[") and address.endswith("]") else address


def _by_launcher(environment: Mapping[str, str]) -> Ranks:
    there = [name for name in _LAUNCHER if name in environment]
    missing = [name for name in _LAUNCHER if name not in environment]
    if missing:
        raise UserError(
            f"{', '.join(there)} set, but not {', '.join(missing)}; "
            "start with torchrun, deepspeed or srun, or unset them all for one process"
        )
    rank, size, local_rank, port = (_number(environment, name) for name in _LAUNCHER if name != "MASTER_ADDR")
    return _checked(Ranks(rank, size, local_rank, plain_address(environment["MASTER_ADDR"]), port))


def _by_slurm(environment: Mapping[str, str]) -> Ranks:
    in_step = environment.get("SLURM_STEP_ID", "4294967291" if environment.get("SLURM_PROCID", "0") == "0" else "0")
    tasks = _number(environment, "SLURM_NTASKS", "1")
    if in_step in _NO_TASK:  # the shell of sbatch or salloc, which has SLURM_NTASKS but is one process
        if tasks > 1:
            raise UserError(
                f"SLURM_NTASKS is {tasks}, but srun has not started this process, so it would wait for {tasks - 1} "
                "others; type `srun python -m ...`, or `env -u SLURM_NTASKS python -m ...` for one process"
            )
        return Ranks(0, 1, 0)
    size = _number(environment, "SLURM_STEP_NUM_TASKS", str(tasks))
    if size == 1:
        return Ranks(0, 1, 0)
    names = ("SLURM_PROCID", "SLURM_LOCALID")
    missing = [name for name in names if name not in environment]
    if missing:
        raise UserError(f"{size} tasks of Slurm, but {' and '.join(missing)} not set; start each by srun")
    rank, local_rank = (_number(environment, name) for name in names)
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    job, step = (_number(environment, name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    lost = [
        name for name, known in (("MASTER_ADDR", nodes), ("MASTER_PORT", job)) if not known and name not in environment
    ]
    if lost:
        raise UserError(
            f"{size} tasks of Slurm, but {' and '.join(lost)} not set, nor SLURM_JOB_NODELIST and SLURM_JOB_ID; "
            'export MASTER_ADDR="$(scontrol show hostnames | head -n1)" and a MASTER_PORT before srun'
        )
    address = plain_address(environment.get("MASTER_ADDR") or first_host(nodes or ""))
    port = _number(environment, "MASTER_PORT", str(_FIRST_PORT + (16 * job + step) % _PORTS))
    return _checked(Ranks(rank, size, local_rank, address, port, tasks_own_gpus=True))


def _by_mpi(environment: Mapping[str, str], names: tuple[str, str, str]) -> Ranks:
    missing = [name for name in names if name not in environment]
    if missing:
        there = [name for name in names if name in environment]
        raise UserError(f"{', '.join(there)} set, but not {', '.join(missing)}; start with mpirun, or unset them all")
    rank, size, local_rank = (_number(environment, name) for name in names)
    if size == 1:
        return Ranks(0, 1, 0)
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise UserError(
            f"{size} processes of MPI, but {' and '.join(missing)} not set; "
            "type mpirun -x MASTER_ADDR=FIRST_HOST -x MASTER_PORT=29500 ..."
        )
    address, port = plain_address(environment["MASTER_ADDR"]), _number(environment, "MASTER_PORT")
    return _checked(Ranks(rank, size, local_rank, address, port, tasks_own_gpus=True))


def _number(environment: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environment.get(name, default)
    if text is None or not text.isascii() or not text.isdigit():
        raise UserError(f"{name} is {text!r}, wanted a number; unset it, or start with torchrun, deepspeed or srun")
    return int(text)


def _checked(ranks: Ranks) -> Ranks:
    if not 0 <= ranks.rank < ranks.size:
        raise UserError(f"rank {ranks.rank} of {ranks.size} processes cannot be; ranks count from 0")
    return ranks
