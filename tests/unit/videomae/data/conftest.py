"""A folder of small source videos for the tests of the data room."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def videos(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """8 train and 4 val videos of the classes Calm and Fight."""
    folder = tmp_path / "videos"
    for number in range(12):
        split, name = ("train" if number < 8 else "val"), ("Calm" if number % 2 else "Fight")
        write_video(folder / split / name / f"clip{number}.mp4", number)
    return folder
