"""Read a file or a camera as a stream of pictures at a fixed rate, in constant memory.

Picture k is the one that a viewer sees k / fps seconds after the first: a faster source loses pictures, a slower one
repeats them. Only the pictures that are returned are scaled and converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from videomae.data.video.color import as_progressive, with_known_matrix
from videomae.data.video.cropping import FrameHWC
from videomae.data.video.numbering import open_numbered
from videomae.data.video.orientation import Orientation

_STAMP_ERROR = 0.0011  # seconds: containers with millisecond stamps round them


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame and its time in seconds. A new `segment` begins after every interruption."""

    frame: VideoFrame
    seconds: float
    segment: int = 0


@dataclass(frozen=True)
class Picture:
    """A uint8 RGB picture, its number in its segment and its time in seconds on the clock of the source."""

    frame_HWC: FrameHWC
    number: int
    seconds: float
    segment: int = 0


def stream_pictures(path: Path, *, fps: float | None, short_side: int | None) -> Iterator[Picture]:
    """Yield the pictures of a video file at `fps` (None: its own), scaled down to `short_side` pixels.

    Raises:
        VideoError: not a video, or damaged.
    """
    yield from sample_pictures(_timed_frames(path), fps=fps, short_side=short_side)


def sample_pictures(
    frames: Iterable[TimedFrame], *, fps: float | None, short_side: int | None, longest_hold: float | None = None
) -> Iterator[Picture]:
    """Sample a stream of frames at `fps`, or yield each frame where `fps` is None.

    A picture is repeated for at most `longest_hold` seconds. A longer gap, or a jump back, begins a new segment.
    """
    sampler = _Sampler(fps, longest_hold)
    last: tuple[TimedFrame, FrameHWC] | None = None
    for shown in sampler.run(frames):
        if last is None or last[0] is not shown.source:
            last = (shown.source, _scaled(shown.source.frame, short_side))
        yield Picture(last[1], shown.number, shown.seconds, shown.segment)


@dataclass(frozen=True)
class _Shown:
    source: TimedFrame
    number: int
    seconds: float
    segment: int


class _Sampler:
    """Finds which frame is shown at each k / fps; a frame is known to be shown until the next one arrives."""

    def __init__(self, fps: float | None, longest_hold: float | None) -> None:
        self._fps, self._hold = fps, longest_hold
        self._held: TimedFrame | None = None
        self._start, self._number, self._segment = 0.0, 0, -1

    def run(self, frames: Iterable[TimedFrame]) -> Iterator[_Shown]:
        step = 0.0
        for frame in frames:
            if self._held is None or self._is_break(self._held, frame):
                yield from self._until(None)
                self._segment += 1
                self._start, self._number = frame.seconds, 0
            else:
                step = frame.seconds - self._held.seconds
                yield from self._until(frame.seconds)
            self._held = frame
        if self._held is not None and self._fps is not None:  # the last frame is shown as long as the one before it
            yield from self._until(self._held.seconds + max(step, _STAMP_ERROR * 2))
        else:
            yield from self._until(None)

    def _is_break(self, held: TimedFrame, frame: TimedFrame) -> bool:
        gap = frame.seconds - held.seconds
        return frame.segment != held.segment or gap <= -_STAMP_ERROR or (self._hold is not None and gap > self._hold)

    def _until(self, end: float | None) -> Iterator[_Shown]:
        """Yield the held frame at every instant before `end`; None: at the instant that it has already reached."""
        if self._held is None:
            return
        if self._fps is None:
            yield _Shown(self._held, self._number, self._held.seconds, self._segment)
            self._number += 1
            return
        limit = self._held.seconds + 2 * _STAMP_ERROR if end is None else end
        while self._start + self._number / self._fps < limit - _STAMP_ERROR:
            seconds = self._start + self._number / self._fps
            yield _Shown(self._held, self._number, seconds, self._segment)
            self._number += 1


def _timed_frames(path: Path) -> Iterator[TimedFrame]:
    """Decode a file. Time goes on where its stamps jump back, as in joined recordings."""
    with open_numbered(path) as video:
        starts, unit = video.timeline.starts, video.timeline.unit
        for number, frame in video.frames:
            yield TimedFrame(frame, float(starts[number - video.first] * unit))


def _scaled(frame: VideoFrame, short_side: int | None) -> FrameHWC:
    """Convert to RGB, upright, at the size that building shards gives: never larger, even width and height."""
    scale = 1.0 if short_side is None else min(1.0, short_side / min(frame.width, frame.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
    rgb = as_progressive(with_known_matrix(frame)).reformat(
        width=width, height=height, format="rgb24", interpolation="BICUBIC", threads=1
    )
    return np.ascontiguousarray(Orientation.of(frame).show(np.asarray(rgb.to_ndarray(), np.uint8)))
