"""Colours are those of the source, whatever its matrix, range and layout, when decoded and when packed."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from tests.unit.videomae.data.video.drawn import COLOURS, colours_of, picture, write
from videomae.data.video import Box, EncodingConfig, VideoError, decode, decode_boxes, encode, probe, transcode
from videomae.data.video.mp4 import parse_mp4

CODECS = {
    "yuv420p": ("libx264", {"crf": "4"}),
    "yuv422p": ("libx264", {"crf": "4"}),
    "yuv444p": ("libx264", {"crf": "4"}),
    "yuv420p10le": ("libx265", {"crf": "4", "x265-params": "log-level=none"}),
    "yuv444p10le": ("ffv1", {}),
    "yuvj420p": ("mjpeg", {"qmin": "2", "qmax": "2"}),
}


def tags_of(video: bytes) -> tuple[int, int]:
    with av.open(io.BytesIO(video), "r") as container:
        frame = next(container.decode(video=0))
        return frame.colorspace, frame.color_range


def hold_colours(path: Path, *, jpeg: bool = False) -> None:
    """Check what decoding and packing give, and that they differ by the noise of coding alone."""
    read = decode(path, [0, 3])
    assert np.abs(colours_of(read[0]) - COLOURS).max() <= 9
    assert np.abs(colours_of(read[0]) - COLOURS).mean() < 3
    for short_side in (None, 48):
        config = EncodingConfig(short_side=short_side, fps=None, crf=12, codec="jpeg" if jpeg else "h264")
        stored = transcode(path, config)
        assert tags_of(stored) == ((5, 2) if jpeg else (6, 1))
        packed = decode(stored, [0, 3])
        assert np.abs(colours_of(packed[0]) - COLOURS).mean() < 4
        if short_side is None:
            assert np.abs(packed.astype(int) - read).mean() < 5  # at the edges of colours, chroma has half the size
        if not jpeg:
            assert parse_mp4(stored) is not None  # read without a demuxer
            box = Box(top=8, left=6, height=20, width=30)
            assert np.array_equal(decode_boxes(stored, [3], [box])[0][0], packed[1, 8:28, 6:36])


@pytest.mark.parametrize("format", CODECS)
@pytest.mark.parametrize(
    ("matrix", "full"), [(1, False), (1, True), (6, False), (6, True), (9, False), (9, True), (2, False)]
)
def test_every_matrix_range_and_layout_gives_the_colours_drawn(
    tmp_path: Path, format: str, matrix: int, full: bool
) -> None:
    codec, options = CODECS[format]
    if codec == "mjpeg" and (matrix not in (2, 6) or not full):
        pytest.skip("JPEG has one matrix and range")
    path = write(tmp_path / "a.mkv", range(6), codec=codec, options=options, format=format, matrix=matrix, full=full)
    hold_colours(path)


def test_rgb_and_stored_jpegs_keep_their_colours(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("qtrle", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb24"
        for number in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number))))
        container.mux(stream.encode(None))
    hold_colours(tmp_path / "a.mov")
    hold_colours(write(tmp_path / "a.mp4", range(6), matrix=1, options={"crf": "4"}), jpeg=True)
    video = encode([picture(number) for number in range(4)], 10, EncodingConfig(crf=4))
    assert tags_of(video) == (6, 1)
    assert np.abs(colours_of(decode(video, [0])[0]) - COLOURS).mean() < 3


def test_a_matrix_that_cannot_be_converted_is_refused_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", range(6), options={"x264-params": "colormatrix=YCgCo"})
    for action in (
        lambda source: probe(source, decode=True),
        lambda source: decode(source, [0]),
        lambda source: transcode(source, EncodingConfig()),
    ):
        with pytest.raises(VideoError, match=r"colour matrix \(number 8 in H.273\)"):
            action(path)


def test_a_change_of_size_is_scaled_and_one_of_shape_refused(tmp_path: Path) -> None:
    parts = {
        size: write(tmp_path / f"{size[0]}.ts", range(6), size=size, options={"g": "3"}).read_bytes()
        for size in ((96, 64), (192, 128), (96, 96))
    }
    joined = tmp_path / "joined.ts"
    joined.write_bytes(parts[96, 64] + parts[192, 128])
    assert probe(joined, decode=True).frames == 12
    assert np.abs(colours_of(decode(joined, [11])[0]) - COLOURS).mean() < 4
    assert decode(transcode(joined, EncodingConfig(short_side=None)), [5]).shape == (1, 64, 96, 3)
    joined.write_bytes(parts[96, 64] + parts[96, 96])
    for action in (
        lambda source: probe(source, decode=True),
        lambda source: decode(source, [0, 11]),
        lambda source: transcode(source, EncodingConfig()),
    ):
        with pytest.raises(VideoError, match=r"change from 96x\d\d to 96x\d\d pixels"):
            action(joined)
