"""Frames are shown upright: by display matrices, when decoded and when packed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.videomae.data.video.drawn import write
from videomae.data.video import (
    Box,
    EncodingConfig,
    VideoError,
    decode,
    decode_boxes,
    decode_with_demuxer,
    iter_frames,
    probe,
    transcode,
)
from videomae.data.video.mp4 import parse_mp4

ONE, W = 1 << 16, 1 << 30
# The matrix (a, b, u, c, d, v, x, y, w), with x' = a x + c y and y' = b x + d y, and what it does to a frame.
TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = {
    "as it is": ((ONE, 0, 0, ONE), lambda frame: frame),
    "mirrored": ((-ONE, 0, 0, ONE), lambda frame: frame[:, ::-1]),
    "upside down": ((ONE, 0, 0, -ONE), lambda frame: frame[::-1]),
    "half a turn": ((-ONE, 0, 0, -ONE), lambda frame: frame[::-1, ::-1]),
    "clockwise": ((0, ONE, -ONE, 0), lambda frame: np.rot90(frame, -1)),
    "counterclockwise": ((0, -ONE, ONE, 0), lambda frame: np.rot90(frame)),
    "transposed": ((0, ONE, ONE, 0), lambda frame: frame.swapaxes(0, 1)),
    "transposed, half a turn": ((0, -ONE, -ONE, 0), lambda frame: frame[::-1, ::-1].swapaxes(0, 1)),
}


def turned(path: Path, a: int, b: int, c: int, d: int) -> Path:
    return write(path, range(6), display=(a, b, 0, c, d, 0, 0, 0, W))


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
@pytest.mark.parametrize("turn", TURNS)
def test_display_matrices_are_applied(tmp_path: Path, turn: str, name: str) -> None:
    matrix, show = TURNS[turn]
    if name == "a.mkv" and "mirrored" not in turn and "turn" not in turn and "wise" not in turn:
        pytest.skip("Matroska has no other flips")
    plain = decode(write(tmp_path / f"plain-{name}", range(6)), range(6))
    path = turned(tmp_path / name, *matrix)
    content = path.read_bytes()
    assert name != "a.mp4" or (parse_mp4(content) is None) == (turn != "as it is")
    expected = np.stack([show(frame) for frame in plain])
    info = probe(path)
    assert (info.height, info.width) == expected.shape[1:3]
    for source in (path, content):
        assert np.array_equal(decode(source, range(6)), expected)
    assert np.array_equal(np.stack(list(iter_frames(path))), expected)
    boxes = [Box(top=3, left=5, height=20, width=31), Box(top=8, left=2, height=40, width=17)]
    for box, crop in zip(boxes, decode_boxes(content, [4], boxes), strict=True):
        assert np.array_equal(crop[0], expected[4, box.top : box.top + box.height, box.left : box.left + box.width])
    stored = transcode(path, EncodingConfig(short_side=48, fps=None, crf=1))
    assert min(probe(stored).height, probe(stored).width) == 48
    assert (probe(stored).height > probe(stored).width) == (info.height > info.width)
    whole = transcode(path, EncodingConfig(short_side=None, fps=None, crf=1))
    assert parse_mp4(whole) is not None  # nothing left to turn
    assert np.abs(decode(whole, range(6)).astype(int) - expected).mean() < 4


def test_jpegs_are_turned_when_packed(tmp_path: Path) -> None:
    matrix, show = TURNS["clockwise"]
    stored = transcode(turned(tmp_path / "a.mp4", *matrix), EncodingConfig(short_side=None, codec="jpeg"))
    plain = decode(write(tmp_path / "b.mp4", range(6)), [0])[0]
    assert np.abs(decode_with_demuxer(stored, [0])[0][0].astype(int) - show(plain)).mean() < 4


def test_other_angles_are_refused(tmp_path: Path) -> None:
    path = turned(tmp_path / "a.mp4", 46341, 46341, -46341, 46341)
    for action in (probe, lambda source: decode(source, [0]), lambda source: transcode(source, EncodingConfig())):
        with pytest.raises(VideoError, match=r"turns it by -?45 degrees; only multiples of 90"):
            action(path)
