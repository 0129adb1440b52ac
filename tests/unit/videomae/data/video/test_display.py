"""Pixels that are not square are shown as wide as the source says, in every container, packed and decoded."""

import contextlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.unit.videomae.data.video.drawn import COLOURS, colours_of, number_of, write
from videomae.data.video import Box, EncodingConfig, VideoError, decode, decode_boxes, iter_frames, probe, transcode
from videomae.data.video.display import Display
from videomae.data.video.mp4 import parse_mp4

WIDE, NARROW = Fraction(16, 11), Fraction(8, 9)
KINDS = {
    "a.mp4": "libx264", "b.mp4": "mpeg4", "a.mov": "libx264", "a.mkv": "libx264", "b.mkv": "libx265", "a.ts": "libx264",
    "a.mpg": "mpeg2video", "a.avi": "mpeg4", "a.flv": "libx264", "a.wmv": "wmv2",
}  # fmt: skip


@pytest.mark.parametrize("aspect", [WIDE, NARROW])
@pytest.mark.parametrize("name", KINDS)
def test_the_picture_is_as_wide_as_the_source_says(tmp_path: Path, name: str, aspect: Fraction) -> None:
    if name == "a.mpg":
        aspect = Fraction(16, 9) * Fraction(64, 96)  # MPEG-2 tells the shape of the frame, by a table
    options = {"x265-params": "log-level=none"} if KINDS[name] == "libx265" else {}
    path = write(tmp_path / name, range(6), codec=KINDS[name], options=options, aspect=aspect)
    width = round(96 * aspect)
    info = probe(path, decode=True)
    assert (info.width, info.height) == (width, 64)
    frames = np.stack(list(iter_frames(path)))
    assert frames.shape == (6, 64, width, 3)
    assert [number_of(frame) for frame in frames] == list(range(6))
    for source in (path, path.read_bytes()):
        assert np.array_equal(decode(source, [4, 1]), frames[[4, 1]])
    box = Box(top=5, left=width - 40, height=31, width=33)
    assert np.array_equal(decode_boxes(path.read_bytes(), [3], [box])[0][0], frames[3, 5:36, -40:-7])
    stored = transcode(path, EncodingConfig(short_side=None, fps=None, crf=4))
    assert (probe(stored).width, probe(stored).height) == (round(width / 2) * 2, 64)
    assert parse_mp4(stored) is not None
    assert np.abs(colours_of(decode(stored, [0])[0]) - COLOURS).mean() < 5
    small = probe(transcode(path, EncodingConfig(short_side=32)))
    assert min(small.width, small.height) == 32
    assert abs(small.width / small.height - width / 64) < 0.07


def test_a_turned_picture_is_stretched_before_it_is_turned(tmp_path: Path) -> None:
    turn = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path = write(tmp_path / "a.mp4", range(4), aspect=WIDE, display=turn)
    upright = write(tmp_path / "b.mp4", range(4), aspect=WIDE)
    assert (probe(path).width, probe(path).height) == (64, 140)
    assert np.array_equal(decode(path, [2])[0], np.rot90(decode(upright, [2])[0], -1))
    assert (lambda info: (info.width, info.height))(probe(transcode(path, EncodingConfig(short_side=None)))) == (
        64,
        140,
    )


def test_sizes_that_were_rounded_are_left_alone_and_impossible_ones_refused(tmp_path: Path) -> None:
    assert probe(write(tmp_path / "a.mkv", range(3), aspect=Fraction(200, 199))).width == 96
    with pytest.raises(VideoError, match=r"pixel aspect of .* makes frames of"):
        Display.stretched(av.VideoFrame(96, 64), Fraction(60_000))


def test_a_change_of_the_pixel_aspect_is_refused(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{n}.ts", range(6), aspect=aspect) for n, aspect in enumerate((None, WIDE))]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for action in (lambda: probe(path, decode=True), lambda: transcode(path, EncodingConfig())):
        with pytest.raises(VideoError, match="the aspect of its pixels changes from 1 to 16/11"):
            action()


@pytest.mark.parametrize(("name", "shown"), [("a.mkv", (9, 96, 64)), ("a.mp4", (4, 48, 32))])
def test_of_several_streams_the_default_one_or_the_largest_is_taken(
    tmp_path: Path, name: str, shown: tuple[int, int, int]
) -> None:
    files = [write(tmp_path / "b.mp4", range(4), size=(48, 32)), write(tmp_path / "c.mp4", range(9))]
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(av.open(str(file))) for file in files]
        out = stack.enter_context(av.open(str(tmp_path / name), "w"))
        streams = [out.add_stream_from_template(source.streams.video[0]) for source in sources]
        for source, stream in zip(sources, streams, strict=True):
            for packet in [packet for packet in source.demux(video=0) if packet.size]:
                packet.stream = stream
                out.mux(packet)
    info = probe(tmp_path / name, decode=True)
    assert (info.frames, info.width, info.height) == shown
    assert [number_of(frame) for frame in decode((tmp_path / name).read_bytes(), [3, 1])] == [3, 1]
    assert len(info.remarks) == 1
    assert info.remarks[0].startswith("further video streams are not taken: ")
