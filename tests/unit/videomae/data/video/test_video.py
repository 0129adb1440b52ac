"""Decoding gives the right frames of any container, only those, and says clearly what it cannot read."""

from pathlib import Path

import av
import numpy as np
import pytest

from videomae.data.video import (
    Box,
    EncodingConfig,
    FramesTHWC,
    VideoError,
    decode,
    decode_boxes,
    encode,
    iter_frames,
    probe,
    transcode,
)

RNG = np.random.default_rng(7)
STORED = EncodingConfig(short_side=None, fps=None)


def counted_frames(count: int, height: int = 48, width: int = 64) -> FramesTHWC:
    """Frames that say their number by their brightness, over a slope."""
    slope = np.linspace(0, 40, width)[None, :, None] + np.zeros((height, 1, 3))
    return np.stack([slope + 5 * number for number in range(count)]).astype(np.uint8)


def write(path: Path, codec: str, options: dict[str, str], count: int = 40) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in counted_frames(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),  # B-frames, one group of pictures
        ("a.mp4", "libx264", {"g": "5", "bf": "0"}),
        ("a.mp4", "libx264", {"x264-params": "keyint=8:open-gop=1:bframes=3"}),
        ("a.mkv", "libx264", {"g": "7"}),
        ("a.mov", "mpeg4", {}),
        ("a.avi", "mpeg4", {"bf": "2"}),
        ("a.avi", "libx264", {}),
        ("a.webm", "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
        ("a.ts", "libx264", {}),
        ("a.mpg", "mpeg2video", {}),
    ],
)
def test_every_container_gives_the_frames_asked_for(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = write(tmp_path / name, codec, options)
    assert probe(path).frames == 40
    assert probe(path).fps == pytest.approx(30, rel=0.01)
    everything = np.stack(list(iter_frames(path)))
    assert np.abs(everything.mean((1, 2, 3)) - counted_frames(40).mean((1, 2, 3))).max() < 3
    for indices in ([0], [39], [39, 0, 17, 17], sorted(RNG.integers(0, 40, 6)), RNG.integers(0, 40, 6)):
        assert np.array_equal(decode(path, indices), everything[np.asarray(indices)])
        assert np.array_equal(decode(path.read_bytes(), indices), everything[np.asarray(indices)])


def test_boxes_are_what_the_whole_frames_show_there() -> None:
    noise = RNG.integers(0, 255, (6, 50, 70, 3), dtype=np.uint8)
    video = encode(noise, 10, STORED)
    whole = decode(video, [5, 1])
    for count in (1, 2, 4):
        boxes = []
        for _ in range(count):
            height, width = int(RNG.integers(1, 51)), int(RNG.integers(1, 71))
            top, left = int(RNG.integers(51 - height)), int(RNG.integers(71 - width))
            boxes.append(Box(top=top, left=left, height=height, width=width))
        for box, cut in zip(boxes, decode_boxes(video, [5, 1], boxes), strict=True):
            assert np.array_equal(cut, whole[:, box.top : box.top + box.height, box.left : box.left + box.width])


def test_a_box_outside_the_picture_is_refused() -> None:
    video = encode(counted_frames(3), 10, STORED)
    with pytest.raises(VideoError, match="does not lie"):
        decode_boxes(video, [0], [Box(top=0, left=60, height=10, width=10)])


def test_encoding_is_deterministic_and_sized() -> None:
    frames = counted_frames(9, height=61, width=91)
    video = encode(iter(frames), 12.5, EncodingConfig(short_side=32))
    assert video == encode(list(frames), 12.5, EncodingConfig(short_side=32))
    info = probe(video)
    assert (info.frames, info.fps, info.height, info.width) == (9, 12.5, 32, 48)
    assert probe(encode(frames, 5, EncodingConfig(short_side=500))).height == 60  # never enlarged, made even


def test_frames_can_be_stored_as_jpegs() -> None:
    smooth = counted_frames(7, height=64, width=96)
    video = encode(smooth, 10, EncodingConfig(short_side=32, codec="jpeg"))
    assert video == encode(smooth, 10, EncodingConfig(short_side=32, codec="jpeg"))
    assert video.count(b"\xff\xd8\xff") == 7
    assert (probe(video).frames, probe(video).width) == (7, 48)
    assert np.abs(decode(video, [6, 0]).astype(int) - smooth[[6, 0], ::2, ::2]).mean() < 3
    finest = encode(smooth, 10, EncodingConfig(codec="jpeg", jpeg_quantizer=2))
    assert len(encode(smooth, 10, EncodingConfig(codec="jpeg", jpeg_quantizer=20))) < len(finest)


def test_memory_left_by_others_does_not_show_in_the_bytes() -> None:
    noise = RNG.integers(0, 255, (6, 24, 36, 3), dtype=np.uint8)
    outcomes = set()
    for _ in range(400):  # x264's macroblock tree failed this about once in 300 times on so small a picture
        _litter = [RNG.integers(0, 255, size, dtype=np.uint8) for size in RNG.integers(10, 100_000, 5)]
        outcomes.add(encode(noise, 5, STORED))
    assert len(outcomes) == 1


@pytest.mark.parametrize(("fps", "kept"), [(30.0, 40), (15.0, 20), (10.0, 14), (7.5, 10), (60.0, 40), (None, 40)])
@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_transcoding_keeps_the_frames_at_each_tick(tmp_path: Path, name: str, fps: float | None, kept: int) -> None:
    path = write(tmp_path / name, "mpeg4", {"qmin": "1", "qmax": "2"})
    video = transcode(path, EncodingConfig(short_side=None, fps=fps))
    assert video == transcode(path, EncodingConfig(short_side=None, fps=fps))
    info = probe(video)
    assert (info.frames, info.fps) == (kept, min(fps or 30, 30))
    everything = np.stack(list(iter_frames(path))).mean((1, 2, 3))
    stored = decode(video, range(kept)).mean((1, 2, 3))
    shown = np.abs(stored[:, None] - everything[None, :]).argmin(axis=1)
    assert shown.tolist() == list(range(0, 40, round(40 / kept)))


def truncated(video: bytes) -> bytes:
    return video[: len(video) // 2]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just some text\n" * 99,
        truncated(encode(counted_frames(20), 10, STORED)),
        b"#EXTM3U\nfile:///etc/passwd\n",
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    for source in (content, path):
        for action in (probe, lambda source: decode(source, [0]), lambda source: list(iter_frames(source))):
            with pytest.raises(VideoError, match=r"not a readable video|truncated"):
                action(source)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_cut_file_never_gives_wrong_frames(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", "libx264", {"g": "8"})
    content, everything = path.read_bytes(), np.stack(list(iter_frames(path)))
    for length in range(50, len(content), 97):
        try:
            found = decode(content[:length], [3, 20])
        except VideoError:
            continue
        assert np.array_equal(found, everything[[3, 20]])


def test_a_truncated_file_with_its_index_in_front_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", {"g": "8"})
    faststart = tmp_path / "b.mp4"
    with av.open(str(path)) as source, av.open(str(faststart), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    content = faststart.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with pytest.raises(VideoError, match="truncated"):
        probe(content[: len(content) * 3 // 4])


@pytest.mark.parametrize("indices", [[], [-1], [0, 5]])
def test_indices_outside_the_video_are_refused(indices: list[int]) -> None:
    with pytest.raises(VideoError, match="of a video of 5 frames"):
        decode(encode(counted_frames(5), 10, STORED), indices)


def test_a_missing_file_is_a_video_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="No such file"):
        probe(tmp_path / "none.mp4")


def test_nothing_to_encode_is_an_error() -> None:
    with pytest.raises(VideoError, match="no frames"):
        encode([], 10, STORED)


@pytest.mark.parametrize("wrong", [{"short_side": 4}, {"fps": 0.0}, {"gop": 0}, {"crf": 60}])
def test_impossible_encodings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        EncodingConfig(**wrong)  # pyright: ignore[reportArgumentType]
