"""What is submitted to Slurm, in which order, and what is printed; sbatch is a script that records its arguments."""

import errno
import fcntl
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.chain import split_stages
from launch.cli import main
from launch.cluster import SshConfig
from launch.record import launch_lock, read_launch
from launch.run_state import inspect_run
from launch.ssh import ssh_words
from launch.stop import stop
from launch.submission import run_exit_code
from tests.processes import ROOT
from tests.stages import finetune_settings
from videomae.run import status
from videomae.run.status import LauncherStatus, Status

PRETRAIN = str(ROOT / "configs/demo/own_videos/pretrain.yaml")
NUMBERS = 'n=$(cat count 2>/dev/null || echo 100); echo $((n + 1)) >count; echo "$@" >>sbatch.told; echo "$n"'


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that submit a run to a fake Slurm with sbatch, scancel and an empty queue."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", NUMBERS), ("squeue", ""), ("scancel", "")):
        (folder / name).write_text(f"#!/bin/bash\ncd {folder} || exit\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (tmp_path / "cluster.yaml").write_text(f"root: {tmp_path}\nnodes: 2\n")
    return ["--on", "slurm", "--cluster", str(tmp_path / "cluster.yaml")]


def finetune_stage(run: Path, shards: Path) -> dict[str, Any]:
    return {"stage": "finetune", **finetune_settings(run, shards), "engine": {"kind": "deepspeed"}}


@pytest.fixture
def told(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: (tmp_path / "bin/sbatch.told").read_text().splitlines()


def test_a_submission_makes_the_run_directory(
    cluster: list[str], told: Callable[[], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", PRETRAIN, "run=runs/a b", "batch=64", *cluster]) == 0
    run = tmp_path / "runs/a b"
    assert capsys.readouterr().out == f"job 100: videomae logs '{run}' -f\n"
    assert told() == [f"--parsable {run}/launch/job.sh"]
    assert yaml.safe_load((run / "launch/config.yaml").read_text())["batch"] == 64
    assert (run / "launch/code/videomae/models/encoder.py").read_text() == (
        ROOT / "videomae/models/encoder.py"
    ).read_text()
    assert (run / "launch/code/launch/job.sh.jinja").is_file()
    found = read_launch(run)
    assert found is not None
    assert (found.kind, found.job, found.module) == ("slurm", "100", "pretrain")


def test_two_do_not_submit_a_run_at_once(
    cluster: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["run=r"], ["--sweep", "seed=0,1", "run=r"]):
        with launch_lock(tmp_path / "r"):
            assert main(["launch", PRETRAIN, *words, *cluster]) == 2
            assert main(["chain", PRETRAIN, "run=r", *cluster]) == 2
        assert capsys.readouterr().err.count("is being launched by another process") == 2
    assert not (tmp_path / "bin/sbatch.told").exists()
    assert main(["launch", PRETRAIN, "run=r", *cluster]) == 0


def test_what_would_submit_more_than_was_asked_is_refused(
    cluster: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", PRETRAIN, "run=r", "--prepare", "--sweep", "seed=0,1", *cluster]) == 2
    assert "type --dry-run to see" in capsys.readouterr().err
    assert main(["chain", PRETRAIN, "run=r", "--force", *cluster]) == 2
    assert "--force would submit every stage again" in capsys.readouterr().err
    assert not (tmp_path / "bin/sbatch.told").exists()


def test_a_dry_run_writes_nothing(cluster: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", PRETRAIN, "run=r", "--dry-run", *cluster]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"sbatch --parsable {tmp_path}/r/launch/job.sh\n")
    assert "#SBATCH --nodes=2" in printed
    assert not (tmp_path / "r").exists()
    assert main(["launch", PRETRAIN, "run=r", "--dry-run", "--json", *cluster]) == 0
    assert json.loads(capsys.readouterr().out)["commands"][0][0] == "sbatch"


def test_a_chain_is_submitted_as_one(
    cluster: list[str], told: Callable[[], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tmp_path / "second.yaml"
    second.write_text(yaml.safe_dump(finetune_stage(tmp_path / "second", tmp_path)))
    third = ["run=third", "protocol.batch=8"]
    words = [
        "chain",
        PRETRAIN,
        "run=first",
        str(second),
        str(ROOT / "configs/demo/own_videos/benchmark.yaml"),
        *third,
        "--json",
    ]
    assert main([*words, *cluster]) == 0
    assert [row["job"] for row in json.loads(capsys.readouterr().out)] == ["100", "101", "102"]
    assert told()[1] == f"--parsable --dependency=afterok:100 --kill-on-invalid-dep=yes {tmp_path}/second/launch/job.sh"
    assert "--dependency=afterok:101 " in told()[2]

    (tmp_path / "first/summary.json").touch()  # it is finished: what comes after needs to wait for nothing
    assert main([*words, *cluster]) == 0
    assert [row["job"] for row in json.loads(capsys.readouterr().out)] == [None, "103", "104"]
    assert "--dependency" not in told()[3]
    assert (tmp_path / "second/launch.1/launch.json").exists()

    assert main(["chain", PRETRAIN, "run=x", PRETRAIN, "run=x", *cluster]) == 2
    assert "each stage needs a directory of its own" in capsys.readouterr().err


def test_a_chain_says_what_is_wrong_with_its_last_stage_first(
    cluster: list[str], told: Callable[[], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tmp_path / "second.yaml"
    second.write_text(yaml.safe_dump(finetune_stage(tmp_path / "second", tmp_path)))
    begun = tmp_path / "second"
    (begun / "checkpoints/step-00000001").mkdir(parents=True)
    (begun / "config.yaml").write_text(second.read_text().replace("batch: 8", "batch: 16"))
    words = ["chain", PRETRAIN, "run=first", str(second)]
    for on in (cluster, ["--on", "torchrun", "--processes", "2"]):
        assert main([*words, *on]) == 2
        assert "holds a run with other settings (batch was 16, now 8" in capsys.readouterr().err
        assert not (tmp_path / "first/launch").exists()
    assert not (tmp_path / "bin/sbatch.told").exists()
    with launch_lock(begun):
        assert main([*words, *cluster]) == 2
    assert "is being launched by another process" in capsys.readouterr().err
    assert not (tmp_path / "bin/sbatch.told").exists()


def test_what_does_not_go_with_the_processes_is_said_before_anything_is_submitted(
    cluster: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["chain", PRETRAIN, "run=first", PRETRAIN, "run=second"]
    for settings, message in (
        (["batch=7", "data.repeated_aug=1"], "batch=7 must be a multiple of the 2 processes"),
        (["batch=8", "data.repeated_aug=1", "engine.micro_batch=3"], "engine.micro_batch=3 must divide the 4 clips"),
        (["engine.kind=local"], "second: engine.kind=local runs in one process, got 2"),
    ):
        assert main([*words, *settings, *cluster]) == 2
        assert message in capsys.readouterr().err
    assert main(["launch", PRETRAIN, "run=third", "data.repeated_aug=1", "--sweep", "batch=8,7", *cluster]) == 2
    assert "batch=7 must be a multiple of the 2 processes" in capsys.readouterr().err
    assert not (tmp_path / "bin/sbatch.told").exists()


def test_a_chain_that_slurm_refuses_in_the_middle_says_what_is_in_the_queue(
    cluster: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch = tmp_path / "bin/sbatch"
    sbatch.write_text(sbatch.read_text() + '[ "$n" = 100 ] || { echo no such account >&2; exit 1; }\n')
    assert main(["chain", PRETRAIN, "run=first", PRETRAIN, "run=second", *cluster]) == 2
    said = capsys.readouterr().err
    assert "no such account" in said
    assert f"{tmp_path}/first as job 100 is queued; the same command resumes from there" in said


def test_a_filesystem_without_locks_does_not_keep_a_launch_back(
    cluster: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert main(["launch", PRETRAIN, "run=first", *cluster]) == 0


def test_overrides_belong_to_the_config_before_them() -> None:
    assert split_stages(["a.yaml", "x=1", "y=2", "b.yaml"]) == [(Path("a.yaml"), ["x=1", "y=2"]), (Path("b.yaml"), [])]
    with pytest.raises(ValueError, match="got 'x=1' before the first config"):
        split_stages(["x=1", "a.yaml"])


def test_a_sweep_is_an_array_of_runs(
    cluster: list[str], told: Callable[[], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", PRETRAIN, "run=s", "--sweep", "optimizer.lr=1e-3,3e-3", *cluster]) == 0
    assert len(told()) == 1
    assert "#SBATCH --array=0-1" in (tmp_path / "s/launch/job.sh").read_text()
    second = tmp_path / "s/lr-3e-3"
    assert yaml.safe_load((second / "launch/config.yaml").read_text())["optimizer"]["lr"] == 3e-3
    found = read_launch(second)
    assert found is not None
    assert found.job == "100_1"
    squeue = tmp_path / "bin/squeue"
    squeue.write_text("#!/bin/bash\necho '100_0|101|RUNNING|n1'; echo '100_1|100|PENDING|(Resources)'\n")
    for words in (["--sweep", "seed=0,1"], []):
        assert main(["launch", PRETRAIN, "run=s", *words, *cluster]) == 2
        assert "s is running at its start: Slurm's job 100: RUNNING (n1)" in capsys.readouterr().err
    assert "s/lr-1e-3/STOP is created" in stop(tmp_path / "s")
    assert "s/lr-3e-3: Slurm's job 100_1 is cancelled" in stop(tmp_path / "s")
    squeue.write_text("#!/bin/bash\n")
    assert inspect_run(tmp_path / "s").state == "new"
    assert main(["launch", PRETRAIN, "run=s", "--sweep", "seed=0,1", *cluster]) == 0
    assert main(["launch", PRETRAIN, "--sweep", "seed=0,0", *cluster]) == 2
    assert "the values of a sweep must differ" in capsys.readouterr().err
    assert main(["launch", PRETRAIN, "--sweep", "seed=0,1"]) == 2
    assert "needs --on slurm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "slurm"], "type --cluster configs/cluster/slurm.yaml"),
        (["--nodes", "2"], "--nodes 2 needs --cluster FILE"),
        (["--on", "local", "--cluster", str(ROOT / "configs/cluster/two_hosts.yaml")], "type --on torchrun"),
        (["bach=3"], "unknown key 'bach'; did you mean 'batch'"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", PRETRAIN, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_slurm_is_named(
    cluster: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["launch", PRETRAIN, "run=r", *cluster]) == 2
    assert "sbatch is not on this machine; type this on a login node" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "state", "exit_code", "expected"),
    [(1, "stopped", 75, 75), (1, "failed", 76, 76), (1, "failed", 2, 2), (137, "running", None, 137),
     (0, "finished", 0, 0)],
)  # fmt: skip
def test_the_exit_code_is_the_runs_own(
    tmp_path: Path, code: int, state: status.State, exit_code: int | None, expected: int
) -> None:
    moment = "2026-01-01T00:00:00+00:00"
    before = Status(
        state="stopped", step=1, total=2, host="n1", pid=1, processes=2, started=moment, updated=moment,
        launcher=LauncherStatus("torchrun", None), exit_code=75,
    )  # fmt: skip
    write = (tmp_path / "status.json").write_text
    write(json.dumps({**vars(before), "launcher": vars(before.launcher)}))
    assert run_exit_code(1, tmp_path, before) == 1, "the status of an earlier start does not count"
    after = replace(before, state=state, exit_code=exit_code, pid=2)
    write(json.dumps({**vars(after), "launcher": vars(after.launcher)}))
    assert run_exit_code(code, tmp_path, before) == expected


def test_a_remote_command_survives_the_remote_shell() -> None:
    *words, host, command = ssh_words(SshConfig(options=("-F", "my config")), "n1", ["bash", "a 'b' $(c)"])
    assert (words[-3:], host) == (["-F", "my config", "--"], "n1")
    assert command == "bash 'a '\"'\"'b'\"'\"' $(c)'"
