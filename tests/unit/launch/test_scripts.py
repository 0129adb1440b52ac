"""Generated scripts: they pass shellcheck, equal the reviewed golden files, and do what they should when run.

`python -m tests.unit.launch.test_scripts` rewrites the golden files.
"""

import difflib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from launch.cluster import ClusterConfig, ContainerConfig, Host, SlurmConfig
from launch.record import LaunchDir
from launch.script import quote, quote_directive
from launch.slurm import job_scripts
from launch.ssh import host_scripts, kill_words, pdsh_command, rank_scripts
from tests.processes import ROOT
from videomae.core.config import load
from videomae.core.processes import descendants, stat_fields

GOLDEN = ROOT / "tests/golden/scripts"
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
SHARED = Path("/shared/project")
EVIL = 'it\'s "one" $(touch pwned) `touch pwned` & * #1'


def shipped(name: str) -> ClusterConfig:
    cluster = load(ClusterConfig, ROOT / f"configs/cluster/{name}.yaml")
    return replace(cluster, root=str(SHARED), python=cluster.python or "python3")


def generated() -> dict[str, str]:
    """Every kind of script, by the name of its golden file."""
    place, odd = LaunchDir(SHARED, SHARED / "runs/vit_base"), LaunchDir(SHARED, SHARED / "runs" / EVIL)
    hosts, alone = shipped("two_hosts"), shipped("two_hosts_no_ssh")
    made = {
        "slurm": job_scripts("pretrain", odd, replace(shipped("slurm"), nodes=4)),
        "slurm-pyxis": job_scripts("pretrain", place, shipped("slurm_pyxis")),
        "slurm-apptainer": job_scripts("finetune", place, shipped("slurm_apptainer")),
        "slurm-sweep": job_scripts(
            "finetune", place, shipped("slurm"), array_runs=[place.run / "seed-0", odd.run / "seed-1"]
        ),
        "torchrun": host_scripts("pretrain", odd, hosts, hosts=hosts.select_hosts(), launcher="torchrun"),
        "deepspeed": host_scripts("pretrain", odd, alone, hosts=alone.select_hosts(), launcher="deepspeed"),
        "deepspeed-pdsh": rank_scripts("pretrain", place, hosts, hosts=hosts.select_hosts()),
    }
    return {f"{kind}-{name}": text for kind, scripts in made.items() for name, text in scripts.items()}


def test_scripts_are_those_that_were_read() -> None:
    made, golden = generated(), {file.name: file.read_text() for file in GOLDEN.iterdir()}
    assert made.keys() == golden.keys()
    for name, text in made.items():
        changes = list(difflib.unified_diff(golden[name].splitlines(), text.splitlines(), "golden", "now", lineterm=""))
        assert not changes, f"{name}\n" + "\n".join(changes)


def test_shellcheck_has_nothing_to_say(tmp_path: Path) -> None:
    if SHELLCHECK is None:
        pytest.skip("shellcheck is not installed")
    scripts = {name: text for name, text in generated().items() if name.endswith(".sh")}
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    # SC2016 warns of $(...) in single quotes, which is intended here.
    words = [SHELLCHECK, "--severity=style", "--exclude=SC2016", *scripts]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_value_is_quoted() -> None:
    assert quote(EVIL) == quote_directive(EVIL)
    assert subprocess.run(["bash", "-c", f"printf %s {quote(EVIL)}"], capture_output=True, text=True).stdout == EVIL
    with pytest.raises(ValueError, match="remove line breaks"):
        quote("a\nb")
    with pytest.raises(ValueError, match=r"a\\nb.*', which cannot stand in a script"):
        job_scripts("pretrain", LaunchDir(SHARED, SHARED / "a\nb"), ClusterConfig())
    with pytest.raises(ValueError, match="Slurm interprets %"):
        job_scripts("pretrain", LaunchDir(SHARED, SHARED / "100%"), ClusterConfig())
    with pytest.raises(ValueError, match="passes words to pdsh unquoted"):
        rank_scripts("pretrain", LaunchDir(SHARED, SHARED / EVIL), ClusterConfig(), hosts=())
    pyxis = ClusterConfig(container=ContainerConfig(kind="pyxis", image="a"))
    with pytest.raises(ValueError, match="pyxis works under Slurm only"):
        rank_scripts("pretrain", LaunchDir(SHARED, SHARED), pyxis, hosts=())


class Stage:
    """The real job.sh, with fake Slurm commands that record their arguments and a fake stage that exits with $CODE."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = LaunchDir(folder, folder / EVIL)
        cluster = ClusterConfig(
            python=str(folder / "my python"),
            environment={"VALUE": EVIL},
            setup=('export SET_UP="by a line"',),
            slurm=SlurmConfig(srun=(f"--comment={EVIL}",)),
        )
        self.place.make(cluster, job_scripts("pretrain", self.place, cluster), code=False)
        self._command(
            "my python",
            'printf "%s|" "$@" "$VALUE" "$SET_UP" "$PYTHONPATH" "$MASTER_ADDR:$MASTER_PORT" >told; exit "$CODE"',
        )
        self._command("scontrol", 'if [ "$1" = show ]; then echo n1; echo n2; else echo "$@" >>requeued; fi')
        self._command("srun", 'printf "%s|" "$@" >srun-told; while [ "$1" != bash ]; do shift; done; "$@"')

    def _command(self, name: str, text: str) -> None:
        (self.folder / name).write_text(f"#!/bin/bash\ncd {quote(self.folder)} || exit\n{text}\n")
        (self.folder / name).chmod(0o755)

    def run(self, code: int, **variables: str) -> int:
        """Run the job with a stage that exits with `code`; return the exit code of the job."""
        environment = {"PATH": f"{self.folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "CODE": str(code)}
        environment |= {"SLURM_JOB_NODELIST": "n[1-2]", **variables}
        return subprocess.run(["bash", str(self.place.record / "job.sh")], env=environment).returncode

    def told(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().split("|") if file.exists() else []


def test_a_job_hands_on_what_it_was_given(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    assert stage.run(0, MASTER_ADDR="of-the-shell", MASTER_PORT="1") == 0
    module, name, config, value, set_up, path, meeting, _ = stage.told("told")
    assert (module, name, config) == ("-m", "pretrain", str(stage.place.config))
    assert (value, set_up, path) == (EVIL, "by a line", str(stage.place.code))
    assert meeting == ":"  # the processes derive it from the variables of their step
    assert f"--comment={EVIL}" in stage.told("srun-told")
    assert "--kill-on-bad-exit=1" in stage.told("srun-told")
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    ("code", "batch", "held", "requeued"),
    [(75, True, False, True), (75, True, True, False), (75, False, False, False), (76, True, False, False),
     (2, True, False, False), (1, True, False, False), (0, True, False, False)],
)  # fmt: skip
def test_only_a_saved_job_comes_back(tmp_path: Path, code: int, batch: bool, held: bool, requeued: bool) -> None:
    stage = Stage(tmp_path)
    if held:
        (stage.place.record / "held").touch()
    assert stage.run(code, SLURM_RESTART_COUNT="1", **({"ENVIRONMENT": "BATCH"} if batch else {})) == code
    assert stage.told("requeued") == (["requeue 17\n"] if requeued else [])
    assert (stage.place.record / "exit").read_text() == f"{code}\n"


def test_a_stop_holds_no_later_job_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    (stage.place.record / "held").touch()
    assert stage.run(75, ENVIRONMENT="BATCH") == 75
    assert stage.told("requeued") == ["requeue 17\n"]


def test_an_address_of_ipv6_is_set_off_from_the_port() -> None:
    hosts = (Host("fd00::1", 1), Host("fd00::2", 1))
    for address in (None, "[fd00::1]"):
        cluster = ClusterConfig(hosts=("fd00::1", "fd00::2"), address=address, port=5000)
        text = host_scripts("pretrain", LaunchDir(SHARED, SHARED / "run"), cluster, hosts=hosts, launcher="torchrun")[
            "host.sh"
        ]
        assert "--rdzv-endpoint='[fd00::1]:5000'" in text
        assert "--master_addr=fd00::1" in pdsh_command(LaunchDir(SHARED, SHARED / "run"), cluster, hosts).words


@pytest.mark.parametrize("number", ["of the process", "of another, which began at another time"])
def test_what_a_host_started_is_ended_and_nothing_else(tmp_path: Path, number: str) -> None:
    place = LaunchDir(tmp_path, tmp_path / EVIL)
    (tmp_path / "my python").write_text("#!/bin/bash\nsleep 300 &\ntouch up\nwait\nexit 1\n")
    (tmp_path / "my python").chmod(0o755)
    cluster = ClusterConfig(python=str(tmp_path / "my python"))
    place.make(cluster, host_scripts("pretrain", place, cluster, hosts=[Host("n1", 1)], launcher="local"), code=False)
    process = subprocess.Popen(["bash", str(place.record / "host.sh"), "0"], start_new_session=True)
    try:
        while not (tmp_path / "up").exists():
            assert process.poll() is None
            time.sleep(0.02)
        file = place.record / "host-0.pid"
        pid, start = file.read_text().split()
        assert (int(pid), start) == (process.pid, stat_fields(process.pid)[19])
        mine = number == "of the process"
        if not mine:
            file.write_text(f"{pid} {int(start) - 1}\n")
        below = descendants(process.pid)
        assert below
        assert subprocess.run(kill_words(place.record, 0)).returncode == 0
        assert process.wait(120) if mine else process.poll() is None
        while mine and any(stat_fields(child) for child in below):  # until init has reaped them
            time.sleep(0.02)
        assert mine or all(stat_fields(child) for child in below)
        assert subprocess.run(kill_words(place.record, 7)).returncode == 0  # which was never started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_mark_of_an_earlier_start_counts_for_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    assert stage.run(75) == 75
    assert stage.run(0, ENVIRONMENT="BATCH") == 0


if __name__ == "__main__":
    for file in GOLDEN.iterdir():
        file.unlink()
    for file_name, script in generated().items():
        (GOLDEN / file_name).write_text(script)
