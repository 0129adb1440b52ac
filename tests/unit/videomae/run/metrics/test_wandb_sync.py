"""Whatever W&B does or does not do, the run goes on, and all its parts are one run there."""

import logging
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from tests.tiny import world_of_one
from tests.wandb_server import wandb_server
from videomae.run.directory import RunDirectory
from videomae.run.metrics import MetricsConfig, MetricsLog, read_metrics, wandb_sync
from videomae.run.metrics.wandb_process import EndSignal, connect, follow
from videomae.run.metrics.wandb_sync import FINISH_SECONDS, mode_of, run_id, start_wandb_sync

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the run's log says; W&B knows no login of this machine."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(logging.getLogger("videomae"), "propagate", True)
    caplog.set_level(logging.INFO, logger="videomae")
    return caplog


@pytest.fixture
def mute_server() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def dead_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def log_and_close(folder: Path, steps: range) -> None:
    log = MetricsLog(RunDirectory(folder), MetricsConfig(), world=world_of_one())
    for step in steps:
        log.write("train", step, loss=1 / step)
    log.close()


def test_all_offline_parts_of_a_run_have_one_id_and_steps_done_again_are_not_sent_again(tmp_path: Path) -> None:
    write_connected(tmp_path, range(1, 5), wandb="offline")
    write_connected(tmp_path, range(3, 7), wandb="offline")  # killed after 4, resumed after 2
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {file.stem for file in files} == {f"run-{run_id(RunDirectory(tmp_path))}"}
    assert sorted(step for file in files for step in sent_steps(file)) == [1, 2, 3, 4, 5, 6]


def sent_steps(file: Path) -> set[int]:
    """The steps in a small file of W&B's: seven bytes, then records of a header (crc, length, type) and a message."""
    data, place, found = file.read_bytes(), 7, b""
    while place < len(data):
        length = int.from_bytes(data[place + 4 : place + 6], "little")
        found += data[place + 7 : place + 7 + length] + b"\n"
        place += 7 + length
    return {int(step) for step in re.findall(rb"train/step\W{1,4}(\d+)", found)}


def write_connected(folder: Path, steps: range, *pictures: str, wandb: Any = "auto") -> None:
    """Log these steps as a run does that is long enough for W&B to connect."""
    log = MetricsLog(RunDirectory(folder), MetricsConfig(wandb=wandb), world=world_of_one())
    log.truncate(steps.start - 1)
    for step in steps:
        log.write("train", step, loss=1 / step, grad_norm=math.nan)
    log.write("reconstructions", steps.stop - 1, files=list(pictures))
    sync = log._sync
    assert sync is not None
    while not sync._connected:
        sync.poll()
        time.sleep(0.05)
    log.close()


def test_all_parts_of_a_run_are_one_run_at_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "clip-0.png")
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        write_connected(tmp_path, range(1, 5))
        (tmp_path / "wandb" / "sent.json").unlink()  # killed before the note was written: the server knows it
        write_connected(tmp_path, range(3, 7), "clip-0.png")  # resumed after 2, finished
        (found,) = server.runs.items()
    name, run = found
    assert name == run_id(RunDirectory(tmp_path))
    assert [line["train/step"] for line in run.lines if "train/step" in line] == [1, 2, 3, 4, 5, 6]
    assert math.isnan(run.summary["train/grad_norm"])
    assert run.summary["reconstructions"]["_type"] in ("images/separated", "image-file")
    assert any(file.endswith(".png") for file in run.files)
    assert [record.levelname for record in dict.fromkeys(said.records)] == ["INFO", "INFO"]  # the run's address, twice


@pytest.mark.parametrize("address", ["dead", "mute"])
def test_a_server_that_is_not_there_costs_a_few_seconds_and_one_line(
    tmp_path: Path, mute_server: str, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture, address: str
) -> None:
    assert wandb_sync.CONNECT_SECONDS["online"] <= 5
    monkeypatch.setitem(wandb_sync.CONNECT_SECONDS, "online", 1.0)
    monkeypatch.setenv("WANDB_BASE_URL", mute_server if address == "mute" else dead_address())
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    log_and_close(tmp_path, range(1, 4))
    (message,) = said.messages
    assert re.match(r"W&B did not finish within \d+ s; metrics.jsonl is complete", message)
    assert f"videomae sync {tmp_path}" in message
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3


def test_a_launcher_that_waits_is_not_kept_waiting(
    tmp_path: Path, mute_server: str, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    """Even a process that is connected, and would have more time, gets no more than there is."""
    monkeypatch.setenv("WANDB_BASE_URL", mute_server)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    log = MetricsLog(RunDirectory(tmp_path), MetricsConfig(), world=world_of_one())
    log.write("train", 1, loss=1.0)
    assert log._sync is not None
    log._sync._connected = True
    log.close(seconds=1.0)
    (seconds,) = re.findall(r"W&B did not finish within (\d+) s", said.text)
    assert int(seconds) < FINISH_SECONDS


class FakeRun:
    """W&B's run, as far as it is used; what the server knows of it already stands in `summary`."""

    url = "http://w.b/run"

    def __init__(self, summary: dict[str, Any]) -> None:
        self.summary, self.logged = summary, list[dict[str, Any]]()

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert step_metric == name.replace("*", "step")

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)


class AtOnceDone:
    def wait(self, seconds: float) -> bool:
        return True


def test_what_the_server_knows_is_not_sent_again_and_pictures_are(tmp_path: Path) -> None:
    log = MetricsLog(RunDirectory(tmp_path), MetricsConfig(wandb="disabled"), world=world_of_one())
    Image.new("RGB", (2, 2)).save(tmp_path / "clip-0.png")
    for step in (1, 2, 3):
        log.write("train", step, loss=math.nan)
    log.write("reconstructions", 3, files=["clip-0.png", "gone.png"])
    log.write("reconstructions", 3, files=["clip-0.png"])
    wandb_run = FakeRun({"train/step": 2, "_runtime": 4})
    assert follow(RunDirectory(tmp_path), wandb_run, cast(EndSignal, AtOnceDone())) == {
        "train": 3,
        "reconstructions": 3,
    }
    train, *pictures = wandb_run.logged
    assert train["train/step"] == 3
    assert [len(values["reconstructions"]) for values in pictures] == [1, 1]


def test_a_server_that_comes_back_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    answers: list[Any] = [OSError("nobody\nthere"), OSError("still"), "run"]

    def init(**settings: Any) -> Any:
        assert settings["id"] == run_id(RunDirectory(tmp_path))
        assert settings["resume"] == "allow"
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    class Patient:
        def wait(self, seconds: float) -> bool:
            return False

    monkeypatch.setattr("wandb.init", init)
    assert connect(RunDirectory(tmp_path), "project", "online", cast(EndSignal, Patient())) == "run"
    assert capsys.readouterr().out == "warning not available (nobody), will retry\n"


def test_the_wandb_process_ends_after_a_killed_training(tmp_path: Path, mute_server: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from videomae.run.metrics import wandb_sync\n"
        "from videomae.run.directory import RunDirectory\n"
        "sync = wandb_sync.start_wandb_sync(RunDirectory(Path(sys.argv[1])), wandb_sync.MetricsConfig())\n"
        "print(sync._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "WANDB_BASE_URL": mute_server, "WANDB_API_KEY": KEY}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child_pid = int(process.stdout.readline())
    until = time.monotonic() + 300
    while is_running(child_pid):
        assert time.monotonic() < until, "the W&B process is still there"
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    """Whether the process is there and more than an entry that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("asked", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_MODE": "offline"}, "offline"),
        ("online", {"WANDB_MODE": "dryrun"}, "offline"),
        ("offline", {"WANDB_MODE": "disabled"}, "disabled"),
        ("disabled", {"WANDB_MODE": "online"}, "online"),
        ("disabled", {"WANDB_MODE": "nonsense"}, "disabled"),
    ],
)
def test_the_config_then_wandb_mode_then_the_login_decide(
    asked: Any, environment: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert mode_of(MetricsConfig(wandb=asked)) == mode


def test_a_folder_of_logs_that_cannot_be_made_costs_wandb_alone(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    assert start_wandb_sync(RunDirectory(tmp_path), MetricsConfig(wandb="offline")) is None


def test_without_wandb_the_run_goes_on_and_says_which_setting_states_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert start_wandb_sync(RunDirectory(tmp_path), MetricsConfig(wandb="offline")) is None
    assert "metrics.wandb=disabled" in said.text
    assert not (tmp_path / "logs").exists()
