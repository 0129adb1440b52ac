"""Small videos for the unit tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from videomae.data.video import EncodingConfig, encode

SMALL = EncodingConfig(short_side=None, fps=None)
WriteVideo = Callable[..., Path]


def small_video(seed: int, frames: int = 12, height: int = 32, width: int = 48, fps: float = 10) -> bytes:
    """A textured square that moves; every seed another."""
    random = np.random.default_rng(seed)
    background = random.integers(0, 120, (height, width, 3), dtype=np.uint8)
    pictures = np.repeat(background[None], frames, axis=0)
    for number, picture in enumerate(pictures):
        left = (seed + 2 * number) % (width - 8)
        picture[8:16, left : left + 8] = 220
    return encode(pictures, fps, SMALL)


@pytest.fixture
def write_video() -> WriteVideo:
    """Writes a small video to a path, making its folder."""

    def write(path: Path, seed: int, **shape: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(small_video(seed, **shape))
        return path

    return write
