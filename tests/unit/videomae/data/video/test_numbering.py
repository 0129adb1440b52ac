"""Frames that are counted are frames that decode, and each is found under its number."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.unit.videomae.data.video.drawn import number_of, write
from videomae.data.video import EncodingConfig, VideoError, decode, iter_frames, probe, transcode

CASES = Path(__file__).parents[6] / "shared" / "cases"


def hold_count(source: Path, numbers: list[int]) -> None:
    """Check that the video has frames of these numbers, whichever way it is read."""
    assert probe(source, decode=True).frames == len(numbers)
    assert [number_of(frame) for frame in iter_frames(source)] == numbers
    for content in (source, source.read_bytes()):
        for place in {0, len(numbers) // 2, len(numbers) - 1}:
            assert number_of(decode(content, [place])[0]) == numbers[place]
    stored = transcode(source, EncodingConfig(short_side=None, fps=None))
    assert [number_of(frame) for frame in decode(stored, range(len(numbers)))] == numbers


@pytest.mark.parametrize(
    "params", ["keyint=15:min-keyint=15:scenecut=0", "keyint=15:min-keyint=15:scenecut=0:open-gop=1"]
)
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_a_stream_that_begins_between_keyframes_begins_at_the_first(tmp_path: Path, codec: str, params: str) -> None:
    options = {"libx264": {"x264-params": params}, "libx265": {"x265-params": params + ":log-level=none"}}
    path = write(tmp_path / "a.ts", range(60), codec=codec, options=options.get(codec, {"g": "15", "bf": "2"}))
    content = path.read_bytes()
    whole = [number_of(frame) for frame in iter_frames(path)]
    assert whole == list(range(60))
    path.write_bytes(content[len(content) // 3 // 188 * 188 :])
    left = [number_of(frame) for frame in iter_frames(path)]
    assert left
    assert left == whole[-len(left) :]
    assert len(left) % 15 in (0, 14, 13, 12)  # from a keyframe, or the first frame after it that can be decoded
    assert probe(path).frames == len(left)
    hold_count(path, left)


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.flv", "a.avi"])
def test_a_stream_that_is_cut_off_ends_at_the_last_frame_that_decodes(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, range(80), options={"g": "10", "bf": "0"}, size=(192, 128))
    content = path.read_bytes()
    for part in (0.9, 0.7):
        path.write_bytes(content[: int(len(content) * part)])
        left = [number_of(frame) for frame in iter_frames(path)]
        assert 8 < len(left) <= 80
        if name == "a.ts":  # whose packets do not say how long they are: half of the last frame may be missing
            assert left[:-1] == list(range(len(left) - 1))
            assert probe(path, decode=True).frames == len(left) == len(decode(path, range(len(left))))
        else:
            hold_count(path, list(range(len(left))))


def test_damage_in_between_is_found_when_frames_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", range(40), options={"g": "10", "x264-params": "slices=1"})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    place = content.index(bytes(packets[20]))  # a keyframe
    content[place : place + packets[20].size] = bytes(packets[20].size)
    path.write_bytes(content)
    assert probe(path).frames == 40
    with pytest.raises(VideoError):
        probe(path, decode=True)


@pytest.mark.skipif(not CASES.is_dir(), reason="no shared/cases")
@pytest.mark.parametrize(
    ("name", "first", "frames"), [("mid_gop.ts", 60, 30), ("joined.ts", 0, 120), ("cam30.mkv", 0, 60)]
)
def test_cases_that_users_met(name: str, first: int, frames: int) -> None:
    assert probe(CASES / name, decode=True).frames == frames
    shown = decode(CASES / name, [0])[0]
    cells = shown[60, 20:320:40].mean(axis=1) > 125
    assert int((cells << np.arange(8)).sum()) == first


DAMAGED = {"a.mkv": "libx264", "a.ts": "mpeg2video", "a.avi": "mpeg4", "a.flv": "flv"}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_that_the_decoder_conceals_is_remarked(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, range(40), codec=DAMAGED[name], options={"g": "10", "bf": "0"})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0) if packet.size][20]  # a keyframe
    middle = packet[len(packet) // 2 : len(packet) // 2 + 24]
    place = content.index(middle)
    content[place : place + len(middle)] = b"\x91\x5c\x03" * 8
    path.write_bytes(content)
    said: list[str] = []
    stored = transcode(path, EncodingConfig(fps=None), remark=said.append)
    assert probe(stored).frames == 40
    assert said == list(probe(path, decode=True).remarks)
    assert len(said) == 1
    assert "damaged and shown as the decoder conceals it, the first is number 2" in said[0]
    assert probe(stored, decode=True).remarks == ()


@pytest.mark.parametrize(("curve", "named"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG"), ("bt709", "")])
def test_hdr_is_remarked(tmp_path: Path, curve: str, named: str) -> None:
    path = write(tmp_path / "a.mp4", range(4), options={"x264-params": f"transfer={curve}"})
    assert [remark.split(" (")[0] for remark in probe(path).remarks] == ([f"HDR by {named}"] if named else [])
