"""Small files that unpack to more than a machine can hold are refused by limits, at once and in bounded memory."""

import io
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from videomae.data.build.build import BuildConfig, build
from videomae.data.build.sources import find_sources
from videomae.data.video import (
    MAX_FRAMES,
    EncodingConfig,
    VideoError,
    container,
    decode,
    encode,
    iter_frames,
    probe,
    transcode,
)
from videomae.data.video.mp4 import _iter_boxes, parse_mp4

SECONDS, MEGABYTES = 20.0, 400  # of CPU, and of further memory, for each refusal
ACTIONS: tuple[Callable[[bytes], object], ...] = (
    probe,
    lambda video: decode(video, [0]),
    lambda video: transcode(video, EncodingConfig()),
    lambda video: sum(1 for _ in iter_frames(video)),
)


def refused(video: bytes, said: str, *, actions: tuple[Callable[[bytes], object], ...] = ACTIONS) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for action in actions:
        start = time.process_time()
        with pytest.raises(VideoError, match=said):
            action(video)
        assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES << 10


def black(width: int, height: int, frames: int = 1, format: str = "mp4") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=format) as output:
        stream = output.add_stream("libx264", rate=10, options={"preset": "ultrafast", "threads": "1"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = av.VideoFrame(width, height, "yuv420p")
        for plane in picture.planes:
            plane.update(bytes(plane.buffer_size))
        for number in range(frames):
            picture.pts = number
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return file.getvalue()


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def with_tables(video: bytes, tables: dict[bytes, bytes]) -> bytes:
    """An mp4 with other tables in its moov; an empty one is left out."""

    def rewritten(start: int, stop: int) -> bytes:
        parts = []
        for kind, (first, last) in _iter_boxes(video, start, stop):
            if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
                parts.append(box(kind, rewritten(first, last)))
            elif kind not in tables or tables[kind]:
                parts.append(box(kind, tables.get(kind, video[first:last])))
        return b"".join(parts)

    return rewritten(0, len(video))


def repeated(samples: int) -> bytes:
    """A real video whose one frame is listed `samples` times: four bytes for each further frame."""
    video = encode([np.zeros((16, 16, 3), np.uint8)], 10, EncodingConfig(short_side=None))
    track = parse_mp4(video)
    assert track is not None
    frame = track.packets[0]
    return with_tables(video, {
        b"stts": struct.pack(">IIII", 0, 1, samples, 1024),
        b"stsz": struct.pack(">III", 0, frame.stop - frame.start, samples),
        b"stco": struct.pack(">II", 0, samples) + struct.pack(">I", frame.start) * samples,
        b"stsc": struct.pack(">IIIII", 0, 1, 1, 1, 1),
        b"edts": b"", b"ctts": b"", b"stss": b"",
    })  # fmt: skip


def test_an_endless_video_is_refused() -> None:
    assert probe(repeated(1000)).frames == 1000  # the trick works
    assert decode(repeated(1000), [999]).shape == (1, 16, 16, 3)
    refused(repeated(MAX_FRAMES + 1), "frames or more; at most")


def test_samples_that_share_the_same_bytes_are_refused_long_before_they_fill_the_memory() -> None:
    video = encode([np.zeros((16, 16, 3), np.uint8)], 10, EncodingConfig(short_side=None))
    size, count = len(video) + 2_000_000, 100_000
    overlapping = with_tables(video, {
        b"stts": struct.pack(">IIII", 0, 1, count, 1024),
        b"stsz": struct.pack(">III", 0, 2_000_000, count),
        b"stco": struct.pack(">II", 0, count) + struct.pack(">I", 40) * count,
        b"stsc": struct.pack(">IIIII", 0, 1, 1, 1, 1),
        b"edts": b"", b"ctts": b"", b"stss": b"",
    }) + box(b"free", bytes(size))  # fmt: skip
    assert parse_mp4(overlapping) is None
    refused(overlapping, "more bytes than the", actions=ACTIONS[:2])


@pytest.mark.parametrize("offset", [2**63 - 1, 2**63 - 8, 2**63, 2**64 - 1])
def test_offsets_at_the_end_of_the_numbers_are_refused(offset: int) -> None:
    video = encode([np.zeros((16, 16, 3), np.uint8)], 10, EncodingConfig(short_side=None))
    table = struct.pack(">IIQ", 0, 1, offset)
    lying = with_tables(video, {b"stco": table}).replace(b"stco" + table, b"co64" + table)
    assert b"co64" in lying
    assert parse_mp4(lying) is None
    with pytest.raises(VideoError):
        decode(lying, [0])


def test_a_header_that_promises_billions_of_frames_costs_nothing() -> None:
    video = encode([np.zeros((16, 16, 3), np.uint8)], 10, EncodingConfig(short_side=None))
    many = 2_000_000_000
    lying = with_tables(video, {
        b"stts": struct.pack(">IIII", 0, 1, many, 1024),
        b"stsz": struct.pack(">III", 0, 1, many),
        b"stsc": struct.pack(">IIIII", 0, 1, 1, many, 1),
        b"edts": b"", b"ctts": b"", b"stss": b"",
    })  # fmt: skip
    assert len(lying) < 2000
    refused(lying, "frames or more; at most")


def test_an_endless_stream_that_does_not_say_its_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_FRAMES", 300)
    assert probe(black(64, 48, 300, "matroska")).frames == 300
    refused(black(64, 48, 400, "matroska"), "300 are supported")


def test_huge_pictures_are_refused(tmp_path: Path) -> None:
    bomb = black(8704, 4640)  # 40 million pixels in a hundred kilobytes
    assert len(bomb) < 200_000
    refused(bomb, "8704x4640 pixels; at most")
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "bomb.mp4").write_bytes(bomb)
    (folder / "good.mp4").write_bytes(black(64, 48, 20))
    manifest = build(find_sources(folder, unlabelled=True), tmp_path / "out", BuildConfig(), workers=1).manifests[
        "train"
    ]
    assert manifest.samples == 1
    assert [left.source for left in manifest.skipped] == ["bomb.mp4"]


def hidden(video: bytes, width: int, height: int) -> bytes:
    """The mp4, whose container now says that its pictures have 64 x 48 pixels."""
    place = video.index(struct.pack(">HH", width, height), video.index(b"avc1"))
    video = video[:place] + struct.pack(">HH", 64, 48) + video[place + 4 :]
    return video.replace(struct.pack(">II", width << 16, height << 16), struct.pack(">II", 64 << 16, 48 << 16))


def test_a_container_that_hides_huge_pictures_is_refused() -> None:
    hiding = hidden(black(8704, 4640), 8704, 4640)
    assert parse_mp4(hiding) is not None
    refused(hiding, "pixels|not a readable video|could not be decoded", actions=ACTIONS[1:3])


def skipping(width: int, height: int, frames: int, format: str) -> bytes:
    """A picture, and then `frames` - 1 of a few bytes each that repeat it: one endless group."""
    first = black(width, height, 2)
    file = io.BytesIO()
    with av.open(io.BytesIO(first), "r") as source, av.open(file, "w", format=format) as output:
        track = source.streams.video[0]
        whole, repeat = [packet for packet in source.demux(track) if packet.size]
        target = output.add_stream_from_template(track)
        for number in range(frames):
            packet = av.Packet(bytes(repeat if number else whole))
            packet.pts = packet.dts = number * (repeat.pts or 1)
            packet.stream, packet.is_keyframe = target, not number
            output.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_a_clip_that_takes_hours_of_decoding_is_refused(format: str) -> None:
    bomb = skipping(3840, 2160, 10_000, format)
    assert len(bomb) < 2 << 20
    assert (parse_mp4(bomb) is not None) == (format == "mp4")
    assert probe(bomb).frames == 10_000
    assert decode(bomb, [0]).shape == (1, 2160, 3840, 3)
    refused(bomb, r"needs \d+ decoded frames of 3840x2160", actions=(lambda video: decode(video, [9_999]),))


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_the_work_is_counted_by_the_pictures_not_by_what_the_container_says(
    monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.setattr(container, "MAX_DECODED_PIXELS", 20 * 3840 * 2160)
    bomb = skipping(3840, 2160, 60, format)
    assert decode(bomb, [0, 19]).shape[0] == 2
    refused(bomb, "60 decoded frames of 3840x2160", actions=(lambda video: decode(video, [59]),))
    monkeypatch.setattr(container, "MAX_DECODED_PIXELS", 20 * 640 * 360)
    counted = black(640, 360, 60, "avi")
    assert decode(counted, [19]).shape[0] == 1
    refused(counted, "60 decoded frames of 640x360", actions=(lambda video: decode(video, [59]),))
    hiding = hidden(skipping(640, 360, 200, "mp4"), 640, 360)
    assert parse_mp4(hiding) is not None
    refused(hiding, "needs more than \\d+ decoded pixels", actions=(lambda video: decode(video, [199]),))
