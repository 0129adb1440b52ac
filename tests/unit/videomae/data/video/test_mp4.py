"""Plain mp4 files are read without a demuxer and without the frames that nobody wants: the same pixels, to the bit."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videomae.data.video import (
    Box,
    EncodingConfig,
    VideoError,
    decode,
    decode_boxes,
    decode_with_demuxer,
    decoding,
    encode,
    iter_frames,
)
from videomae.data.video.mp4 import parse_mp4

RNG = np.random.default_rng(3)
STORED = EncodingConfig(short_side=None, fps=None)


def moving(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Noise that shifts and changes, so that every frame differs from every other."""
    noise = RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)
    return np.stack([np.roll(noise, 3 * number, 1) // 2 + number % 100 for number in range(count)]).astype(np.uint8)


def mux(
    params: str, count: int = 40, *, format: str = "mp4", audio: bool = False, rate: int = 30, **options: str
) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=format, options=options) as container:
        stream = container.add_stream("libx264", rate=rate, options={"x264-params": params, "preset": "veryfast"})
        assert isinstance(stream, av.VideoStream)
        sound = container.add_stream("aac", rate=8000) if audio else None
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in moving(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
        if isinstance(sound, av.AudioStream):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 8000
            container.mux([*sound.encode(silence), *sound.encode(None)])
    return file.getvalue()


def fed(video: bytes, indices: list[int], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many packets the decoder gets for these frames."""
    count = 0
    original = decoding._av_packet

    def counted(track: object, packet: object) -> object:
        nonlocal count
        count += 1
        return original(track, packet)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(decoding, "_av_packet", counted)
    decode(video, indices)
    monkeypatch.undo()
    return count


@pytest.mark.parametrize(
    "params",
    [
        "",  # x264's own: B-frames, pyramid, weighted prediction
        "bframes=0",
        "bframes=3:b-adapt=0:b-pyramid=none:weightb=0:keyint=16",
        "bframes=5:b-pyramid=strict:keyint=12",
        "bframes=16:b-adapt=0:b-pyramid=none",
        "keyint=8:open-gop=1:bframes=3",
        "keyint=1",
        "ref=5:bframes=2:direct=temporal",
        "interlaced=1:bframes=2",
        "slices=3:bframes=2",
        "intra-refresh=1:keyint=10:bframes=0",
        "cabac=0:no-deblock=1:bframes=4",
        "aud=1:nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500:bframes=2",
    ],
)
def test_frames_are_those_of_the_demuxer(params: str) -> None:
    video = mux(params)
    assert parse_mp4(video) is not None
    everything = decode_with_demuxer(video, range(40))[0]
    for _ in range(12):
        indices = RNG.integers(0, 40, RNG.integers(1, 20))
        assert np.array_equal(decode(video, indices), everything[indices])


@pytest.mark.parametrize("format", ["mp4", "matroska"])
@pytest.mark.parametrize(
    "params",
    [
        "keyint=8:min-keyint=8:open-gop=1:bframes=3",
        "keyint=6:min-keyint=6:open-gop=1:bframes=5:b-pyramid=normal:ref=16",
        "keyint=5:min-keyint=5:open-gop=1:bframes=1:ref=8",
        "keyint=3:min-keyint=2:open-gop=1:bframes=2:ref=8",
        "keyint=8:min-keyint=8:bframes=3:b-pyramid=normal",
    ],
)
def test_no_more_is_decoded_than_the_groups_of_what_is_wanted_and_nothing_twice(
    params: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 48
    video = mux(f"{params}:b-adapt=0:scenecut=0", count, format=format)
    everything = np.stack(list(iter_frames(video)))
    done = []
    monkeypatch.setattr(decoding.DecodeBudget, "charge", lambda budget, decoder: done.append(decoder))
    for _ in range(30):
        indices = sorted(RNG.choice(count, RNG.integers(1, 9), replace=False))
        done.clear()
        assert np.array_equal(decode(video, indices), everything[indices])
        needed = packets_for(video, indices)
        assert len(done) <= len(needed)
        if format == "matroska":  # where frames that nothing refers to are decoded too
            assert len(done) == len(needed)


def packets_for(video: bytes, indices: list[int]) -> set[int]:
    """The places, in decoding order, of what leads from keyframes to the wanted frames."""
    with av.open(io.BytesIO(video), "r") as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
    times = [packet.pts or 0 for packet in packets]
    keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
    needed: set[int] = set()
    for index in indices:
        place = times.index(sorted(times)[index])
        before = [key for key in keys if key <= place]
        leads = times[before[-1]] > times[place] and len(before) > 1
        needed |= set(range(before[-2] if leads else before[-1], place + 1))
    return needed


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_encoding_of_ours_gives_the_frames_of_the_demuxer(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 50), "frames")
    config = EncodingConfig(
        short_side=None, fps=None, gop=data.draw(st.integers(1, 30), "gop"),
        b_frames=data.draw(st.integers(0, 8), "b_frames"), fast_decode=data.draw(st.booleans(), "fast"),
    )  # fmt: skip
    fps = data.draw(st.sampled_from([5.0, 7.5, 10.0, 15.0, 23.976, 29.97, 30.0, 59.94, 1000.0]), "fps")
    video = encode(moving(count, 32, 48), fps, config)
    assert parse_mp4(video) is not None
    indices = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=20), "indices")
    assert np.array_equal(decode(video, indices), decode_with_demuxer(video, indices)[0])


def test_unwanted_frames_that_nothing_refers_to_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    video = encode(moving(33), 15, STORED)
    everything = list(range(33))
    assert fed(video, everything, monkeypatch) == 33
    assert fed(video, everything[:32:4], monkeypatch) <= 12
    assert fed(video, everything[1:32:4], monkeypatch) <= 18
    assert fed(video, [32], monkeypatch) == 1  # a keyframe
    assert fed(video, [31], monkeypatch) <= 9  # what leads to it from keyframe 0: every fourth


def test_every_crop_at_every_offset_is_cut_to_the_pixel() -> None:
    video = encode(moving(2, 50, 90), 10, STORED)
    whole = decode_with_demuxer(video, [1])[0]
    for top in range(0, 40, 3):
        for left in range(70):
            box = Box(top=top, left=left, height=int(RNG.integers(1, 51 - top)), width=int(RNG.integers(1, 91 - left)))
            (cut,) = decode_boxes(video, [1], [box])
            assert np.array_equal(cut, whole[:, top : top + box.height, left : left + box.width])


def test_what_is_not_plain_is_left_to_the_demuxer(tmp_path: Path) -> None:
    plain = mux("bframes=2")
    others = [
        mux("bframes=2", audio=True),
        mux("bframes=2", movflags="frag_keyframe+empty_moov"),
        mux("bframes=2:colormatrix=bt709:colorprim=bt709:transfer=bt709", movflags="write_colr"),
        plain[: len(plain) - 60],
        plain.replace(b"avc1", b"mp4v"),
        plain.replace(b"stbl", b"free"),
        b"",
        bytes(4000),
    ]
    assert parse_mp4(plain) is not None
    assert [parse_mp4(video) is None for video in others] == [True] * len(others)
    for video in others[:3]:
        assert np.array_equal(decode(video, [9, 30]), decode_with_demuxer(video, [9, 30])[0])


def test_a_video_cut_by_its_edit_list_shows_what_the_demuxer_shows() -> None:
    video = bytearray(mux("bframes=2", rate=30))
    elst = video.index(b"elst") + 12
    video[elst + 4 : elst + 8] = (int.from_bytes(video[elst + 4 : elst + 8]) + 512 * 9).to_bytes(4)
    cut = bytes(video)
    assert parse_mp4(cut) is None
    with pytest.raises(VideoError, match="of a video of"):
        decode(cut, [39])


@pytest.mark.parametrize("fps", [Fraction(15), Fraction(30000, 1001)])
def test_damaged_slices_never_crash(fps: Fraction) -> None:
    video = encode(moving(20), float(fps), STORED)
    track = parse_mp4(video)
    assert track is not None
    for packet in track.packets:
        damaged = bytearray(video)
        damaged[packet.start : packet.start + 4] = b"\xff\xff\xff\xff"  # a NAL unit larger than the file
        try:
            found = decode(bytes(damaged), range(0, 20, 3))
        except VideoError:
            continue
        assert found.shape == (7, 48, 64, 3)
