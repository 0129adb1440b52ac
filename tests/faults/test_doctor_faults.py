"""The doctor on machines with real faults."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT
from tests.stages import pretrain_arguments

DOCTOR = [sys.executable, "-m", "launch", "doctor", "--json"]
LONG_TIMEOUT = ["--timeout", "240"]  # processes of a busy machine start late


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **more}


def ranks(count: int) -> list[dict[str, str]]:
    """The variables of a launcher for `count` processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def results(commands: list[tuple[list[str], dict[str, str]]], *, expect: int) -> dict[str, dict[str, Any]]:
    """Run a process of each command together; rank 0's results by check."""
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen(words, cwd=ROOT, env=environment(**more), stdout=pipe, stderr=pipe, text=True)
        for words, more in commands
    ]
    outputs = [process.communicate(timeout=500) for process in running]
    assert [process.returncode for process in running] == [expect] * len(running), outputs
    found = json.loads(outputs[0][0])["results"]
    return {result["check"]: result for result in sorted(found, key=lambda result: result["level"] != "green")}


def test_another_version_a_skewed_clock_and_shards_out_of_reach_on_one_rank(shards: Path, tmp_path: Path) -> None:
    fake = tmp_path / "packages" / "torchvision-0.1.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n")
    faults = {"FAULT_PACKAGES": str(fake.parent), "FAULT_FOLDER": str(tmp_path), "FAULT_SECONDS": "30"}
    relative = os.path.relpath(shards / "train", ROOT)
    arguments = [*pretrain_arguments(tmp_path / "run", shards), f"data.shards={relative}"]
    words = [sys.executable, "-m", "tests.faults.doctor_rank", "--json", *LONG_TIMEOUT, *arguments]
    paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    seen = results([(words, {**rank, **faults, "PYTHONPATH": paths}) for rank in ranks(2)], expect=1)
    red = {name for name, result in seen.items() if result["level"] == "red"}
    assert red == {"versions", "clocks", "shards"}
    assert "torchvision" in seen["versions"]["message"]
    assert "0.1 on rank 1" in seen["versions"]["message"]
    assert "+30." in seen["clocks"]["message"]
    assert "rank 1" in seen["shards"]["message"]
    assert "no manifest.json" in seen["shards"]["message"]
    assert seen["all-reduce"]["level"] == seen["firewall"]["level"] == "green"
    assert seen["shared run directory"]["level"] == "green"


def test_a_small_disk_small_shared_memory_and_a_directory_of_ones_own(shards: Path, tmp_path: Path) -> None:
    """Rank 1 has file systems of its own, as on a host that does not mount the shared one."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("private mounts need root and unshare")
    run = tmp_path / "run"
    run.mkdir()
    arguments = [*pretrain_arguments(run, shards), "loader.workers=2", "batch=64"]
    mounts = f"mount -t tmpfs -o size=20m none {run} && mount -t tmpfs -o size=1m none /dev/shm"
    inside = ["unshare", "-m", "sh", "-c", f'{mounts} && ulimit -n 512 && exec "$@"', "sh"]
    first, second = ranks(2)
    words = [*DOCTOR, *LONG_TIMEOUT, *arguments]
    seen = results([(words, first), ([*inside, *words], second)], expect=1)
    for name in ("disk", "shared run directory"):
        assert seen[name]["level"] == "red", seen
        assert "rank 1" in seen[name]["message"]
        assert seen[name]["remedy"]
    assert not list(run.iterdir())


def test_small_shared_memory_and_few_files_on_one_host(shards: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("private mounts need root and unshare")
    arguments = [*pretrain_arguments(tmp_path / "run", shards), "loader.workers=2", "batch=64"]
    mount = "mount -t tmpfs -o size=1m none /dev/shm && ulimit -n 512"
    words = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *DOCTOR, *arguments]
    seen = results([(words, {})], expect=1)
    assert {name for name, result in seen.items() if result["level"] == "red"} == {"shared memory", "limits"}
    assert "512 open files" in seen["limits"]["message"]


def test_a_rank_that_never_connects_is_a_red_line() -> None:
    seen = results([([*DOCTOR, "--timeout", "3"], ranks(2)[0])], expect=1)
    assert seen["network"]["level"] == "red"
    assert "cannot connect to all 2 ranks" in seen["network"]["message"]
    assert seen["versions"]["level"] == "green", "rank 0 still shows its own results"


def test_it_starts_the_processes_itself(shards: Path, tmp_path: Path) -> None:
    words = [
        *DOCTOR,
        "--on",
        "torchrun",
        "--processes",
        "2",
        *LONG_TIMEOUT,
        *pretrain_arguments(tmp_path / "run", shards),
    ]
    seen = results([(words, {})], expect=0)
    assert "gloo" in seen["all-reduce"]["message"]
    assert seen["shards"]["level"] == "green"
