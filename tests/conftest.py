"""What many tests share: a tiny set of real videos in shards, one thread a process, a GPU or a visible skip."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.processes import call, once
from videomae.core import progress

os.environ["OMP_NUM_THREADS"] = "1"  # pytest runs a process a core
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell leaves it to its background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)

JOB = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
SURVEILLANCE = Path(__file__).parent.parent.parent / "shared" / "data" / "surveillance-fights"
SYNTHESIZED = ("--classes", "left,right", "--train", "24", "--val", "8", "--size", "160x120", "--fps", "15..30")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses the tests marked gpu")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):  # not a keyword, which the name of a folder is, too
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def leaves_no_job() -> Iterator[None]:
    """A test that joins a job in pytest's own process leaves it, or others would find themselves in it."""
    yield
    left = sorted(JOB & os.environ.keys())
    assert not left, f"the test has left {left} in the environment"
    assert not torch.distributed.is_initialized(), "the test has left a process group"


@pytest.fixture(autouse=True)
def quiet_after_commands() -> Iterator[None]:
    """A command sends the log to standard error, which pytest takes away again after the test."""
    yield
    for handler in list(progress.logger.handlers):
        progress.logger.removeHandler(handler)
        handler.close()
    progress.logger.propagate = True


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For a test that joins a job in pytest's own process."""
    for name in JOB:
        monkeypatch.setenv(name, "")  # to be taken away again
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 train and 8 val synthetic videos of two classes, drawn and encoded as in the demo."""
    words = (*SYNTHESIZED, "--workers", "1")
    made = once(tmp_path_factory, "set", lambda folder: call("shards", "synthesize", folder / "videos", *words))
    return made / "videos"


@pytest.fixture(scope="session")
def shards(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those videos in shards, as in the demo."""
    words = ("--short-side", "96", "--fps", "10", "--workers", "1")
    made = once(tmp_path_factory, "packed", lambda folder: call("shards", "build", videos, folder / "shards", *words))
    return made / "shards"


@pytest.fixture(scope="session")
def surveillance() -> Path:
    """The folder of real CCTV clips."""
    if not SURVEILLANCE.is_dir():
        pytest.skip(f"the real clips are not at {SURVEILLANCE}")
    return SURVEILLANCE
