"""Packing shows at every time what the source shows then, for as long as the source lasts."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.videomae.data.video.drawn import number_of, write
from videomae.data.video import EncodingConfig, decode, iter_frames, probe, transcode
from videomae.data.video.timing import timeline

MILLISECOND = Fraction(1, 1000)
BURST = [*range(60), *range(60, 240, 10)]  # thirtieths: 2 s at 30 fps, then 6 s at 3 fps


def shown_at(starts: list[Fraction], duration: Fraction, fps: Fraction) -> list[int]:
    """The frame on display at each k / fps, written down as the definition says."""
    found, tick = [], Fraction(0)
    while tick < duration:
        found.append(max(place for place, start in enumerate(starts) if start <= tick))
        tick += 1 / fps
    return found


def taken(repeats: list[int]) -> list[int]:
    return [place for place, count in enumerate(repeats) for _ in range(count)]


@pytest.mark.parametrize(
    ("ticks", "last", "unit", "fps", "rate", "seconds"),
    [
        (list(range(60)), 1, Fraction(1, 30), 15, 30, 2),
        ([round(1000 * i / 30) for i in range(60)], 33, MILLISECOND, 15, 30, 2),  # rounded to 33, 67, 100, 133
        ([round(1001 * i / 60) for i in range(90)], 17, MILLISECOND, 15, Fraction(60000, 1001), 1.5),
        ([round(1000 * i / 24) for i in range(48)], 0, MILLISECOND, 15, 24, 2),  # the last has no duration
        (BURST, 10, Fraction(1, 30), 15, 30, 8),
        ([round(1000 * i / 30) for i in BURST], 333, MILLISECOND, 15, 30, 8),
        ([10 * i for i in range(20)], 10, Fraction(1, 30), 15, 3, 20 / 3),  # 3 fps, whatever the header says
        ([0, 40, 80, 1080, 1120], 40, MILLISECOND, 15, 25, 1.16),
        ([7], 1, Fraction(1, 30), 15, 30, 1 / 30),
    ],
)
def test_times_on_a_grid_are_snapped_to_it(
    ticks: list[int], last: int, unit: Fraction, fps: int, rate: Fraction, seconds: float
) -> None:
    found = timeline(ticks, last, unit, [Fraction(30)])
    assert found.rate == rate
    assert found.end * found.unit == pytest.approx(seconds, abs=0.002)
    exact = [Fraction(round((tick - ticks[0]) * unit * rate)) / rate for tick in ticks]
    frames = taken(found.repeats(Fraction(fps)))
    assert frames == shown_at(exact, found.end * found.unit, Fraction(fps))
    assert len(frames) / fps - 1 / fps < found.end * found.unit <= len(frames) / fps


def test_a_camera_that_trembles_gives_every_second_picture() -> None:
    trembling = [333 * i + 10 * (0, 4, -5, 2, -3)[i % 5] for i in range(60)]  # 30 fps, up to 5 ms early or late
    assert taken(timeline(trembling, 0, Fraction(1, 10_000)).repeats(Fraction(15))) == list(range(0, 60, 2))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 700), min_size=2, max_size=40),
    st.sampled_from([MILLISECOND, Fraction(1, 600), Fraction(1, 90_000)]),
    st.sampled_from([Fraction(15), Fraction(15, 2), Fraction(10), Fraction(30000, 1001)]),
)
@example([99, 580, 123, 421], Fraction(1, 600), Fraction(15))  # snapped to 200/37 fps, the first and the last apart
def test_any_times_keep_their_duration_and_their_pictures(gaps: list[int], unit: Fraction, fps: Fraction) -> None:
    starts = [sum(gaps[:place]) * unit for place in range(len(gaps))]
    found = timeline([int(start / unit) for start in starts], gaps[-1], unit)
    frames = taken(found.repeats(fps))
    duration = sum(gaps) * unit
    near = 0.2 / found.rate + MILLISECOND  # times are snapped by less: the first, the last, and what the last one lasts
    assert duration - 3 * near <= len(frames) / fps < duration + 1 / fps + 3 * near
    for number, place in enumerate(frames):
        assert starts[place] <= number / fps + 2 * near
        assert place + 1 == len(starts) or starts[place + 1] >= number / fps - 2 * near


KINDS = {
    "a.mp4": ("libx264", {}),
    "b.mp4": ("mpeg4", {}),
    "a.mov": ("mjpeg", {}),
    "a.mkv": ("libx264", {}),
    "b.mkv": ("libx265", {"x265-params": "log-level=none"}),
    "a.webm": ("libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
    "b.webm": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),  # with frames that are never shown
    "a.ts": ("mpeg2video", {"bf": "2"}),
    "b.ts": ("libx264", {}),
    "a.avi": ("mpeg4", {"bf": "2"}),
    "b.avi": ("libx264", {}),
    "a.flv": ("libx264", {}),
    "a.wmv": ("wmv2", {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_container_keeps_its_time(tmp_path: Path, name: str) -> None:
    stamps = [number for number in range(50) if number % 7 not in (3, 4) and not 20 < number < 33]
    codec, options = KINDS[name]
    path = write(
        tmp_path / name, stamps, codec=codec, options=options, numbers=stamps,
        format="yuvj420p" if codec == "mjpeg" else "yuv420p", full=codec == "mjpeg",
    )  # fmt: skip
    assert probe(path) == probe(path, decode=True)
    assert [number_of(frame) for frame in iter_frames(path)] == stamps
    stored = transcode(path, EncodingConfig(short_side=None, fps=15))
    frames = decode(stored, range(probe(stored).frames))
    times = [Fraction(stamp, 30) for stamp in stamps]
    expected = [stamps[place] for place in shown_at(times, Fraction(50, 30), Fraction(15))]
    assert [number_of(frame) for frame in frames] == expected
    assert [number_of(frame) for frame in decode(path.read_bytes(), [20, 3, 3])] == [stamps[20], stamps[3], stamps[3]]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_drawn_sources_keep_their_duration_and_their_pictures(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["a.mp4", "a.mkv", "a.ts", "a.avi"]), "name")
    unit = Fraction(1, data.draw(st.sampled_from([10, 24, 25, 30]), "rate"))
    gaps = data.draw(st.lists(st.sampled_from([1, 1, 1, 2, 9]), min_size=6, max_size=30), "gaps")
    fps = data.draw(st.sampled_from([5.0, 7.5, 12.5, 15.0, None]), "fps")
    stamps = [sum(gaps[:place]) for place in range(len(gaps) + 1)]
    path = write(tmp_path / name, stamps, unit=unit, codec="mpeg4")
    stored = transcode(path, EncodingConfig(short_side=None, fps=fps))
    info = probe(stored)
    assert info.fps <= 1 / unit
    duration = (stamps[-1] + 1) * unit
    assert abs(info.frames / info.fps - duration) <= 1 / info.fps + max(gaps) * unit * (name == "a.mp4")
    starts = [stamp * unit for stamp in stamps]
    rate = Fraction(info.fps).limit_denominator(1001)
    expected = shown_at(starts, duration, rate)
    assert [number_of(frame) for frame in decode(stored, range(len(expected)))] == expected


def test_recordings_that_were_joined_go_on_after_each_other(tmp_path: Path) -> None:
    path = tmp_path / "joined.ts"
    parts = [write(tmp_path / f"{n}.ts", range(20), numbers=range(20 * n, 20 * n + 20)).read_bytes() for n in range(3)]
    path.write_bytes(b"".join(parts))
    assert probe(path, decode=True).frames == probe(path).frames == 60
    stored = transcode(path, EncodingConfig(short_side=None, fps=15))
    assert [number_of(frame) for frame in decode(stored, range(30))] == list(range(0, 60, 2))
    assert [number_of(frame) for frame in decode(path, [59, 21, 3])] == [59, 21, 3]
