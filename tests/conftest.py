"""What many tests share: a tiny set of real videos in shards, one thread a process, a GPU or a visible skip."""

import os
from pathlib import Path

import pytest
import torch

from tests.processes import run_command

os.environ["OMP_NUM_THREADS"] = "1"  # pytest runs a process a core
torch.set_num_threads(1)

SURVEILLANCE = Path(__file__).parent.parent.parent / "shared" / "data" / "surveillance-fights"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 train and 8 val synthetic videos, drawn and encoded as in the demo."""
    folder = tmp_path_factory.mktemp("videos") / "videos"
    run_command("videomae.shards", "synthesize", folder, "--train", "24", "--val", "8", "--workers", "1")
    return folder


@pytest.fixture(scope="session")
def shards(videos: Path) -> Path:
    """Those videos in shards, as in the demo."""
    folder = videos.parent / "shards"
    run_command("videomae.shards", "build", videos, folder, "--short-side", "96", "--fps", "10", "--workers", "1")
    return folder


@pytest.fixture(scope="session")
def surveillance() -> Path:
    """The folder of real CCTV clips."""
    if not SURVEILLANCE.is_dir():
        pytest.skip(f"the real clips are not at {SURVEILLANCE}")
    return SURVEILLANCE
