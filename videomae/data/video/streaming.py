"""Read a file or a camera as a stream of pictures at a fixed rate, in constant memory.

Picture k is the one that a viewer sees k / fps seconds after the first: a faster source loses pictures, a slower one
repeats them. Only the pictures that are returned are scaled and converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from videomae.data.video.color import as_plain, with_known_matrix
from videomae.data.video.cropping import FrameHWC
from videomae.data.video.display import Display
from videomae.data.video.numbering import open_numbered

_STAMP_ERROR = 0.0011  # seconds: containers with millisecond stamps round them


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame, its time in seconds, and how it is shown. A new `segment` begins after every interruption."""

    frame: VideoFrame
    seconds: float
    display: Display
    segment: int = 0


@dataclass(frozen=True)
class Picture:
    """A uint8 RGB picture, its number in its segment and its time in seconds on the clock of the source."""

    frame_HWC: FrameHWC
    number: int
    seconds: float
    segment: int = 0


def stream_pictures(path: Path, *, fps: float, short_side: int | None) -> Iterator[Picture]:
    """Yield the pictures of a video file at `fps`, scaled down to `short_side` pixels.

    Time goes on where the file's stamps jump back, as in joined recordings.

    Raises:
        VideoError: not a video, or damaged.
    """
    last: tuple[VideoFrame, FrameHWC] | None = None
    with open_numbered(path) as video:
        for number, frame in enumerate(video.shown(Fraction(fps).limit_denominator(1001))):
            if last is None or last[0] is not frame:
                last = (frame, _scaled(frame, video.display, short_side))
            yield Picture(last[1], number, number / fps)


def sample_pictures(
    frames: Iterable[TimedFrame], *, fps: float, short_side: int | None, longest_hold: float
) -> Iterator[Picture]:
    """Sample the frames of a camera at `fps`.

    A picture is repeated for at most `longest_hold` seconds. A longer gap, or a jump back, begins a new segment.
    """
    sampler = _Sampler(fps, longest_hold)
    last: tuple[TimedFrame, FrameHWC] | None = None
    for source, number, seconds, segment in sampler.run(frames):
        if last is None or last[0] is not source:
            last = (source, _scaled(source.frame, source.display, short_side))
        yield Picture(last[1], number, seconds, segment)


_Shown = tuple[TimedFrame, int, float, int]  # a frame, its number, its time in seconds, its segment


class _Sampler:
    """Finds which frame is shown at each k / fps; a frame is known to be shown until the next one arrives."""

    def __init__(self, fps: float, longest_hold: float) -> None:
        self._fps, self._hold = fps, longest_hold
        self._held: TimedFrame | None = None
        self._start, self._number, self._segment = 0.0, 0, -1

    def run(self, frames: Iterable[TimedFrame]) -> Iterator[_Shown]:
        step = 0.0
        for frame in frames:
            if self._held is None or self._is_break(self._held, frame):
                yield from self._until(2 * _STAMP_ERROR)
                self._segment += 1
                self._start, self._number = frame.seconds, 0
            else:
                step = frame.seconds - self._held.seconds
                yield from self._until(step)
            self._held = frame
        yield from self._until(max(step, 2 * _STAMP_ERROR))  # the last one is shown as long as the one before it

    def _is_break(self, held: TimedFrame, frame: TimedFrame) -> bool:
        gap = frame.seconds - held.seconds
        return frame.segment != held.segment or gap <= -_STAMP_ERROR or gap > self._hold

    def _until(self, length: float) -> Iterator[_Shown]:
        """Yield the held frame at every instant within `length` seconds of its own time."""
        if self._held is None:
            return
        while (seconds := self._start + self._number / self._fps) < self._held.seconds + length - _STAMP_ERROR:
            yield self._held, self._number, seconds, self._segment
            self._number += 1


def _scaled(frame: VideoFrame, display: Display, short_side: int | None) -> FrameHWC:
    """Convert to RGB as it is shown, at the size that building shards gives: never larger, even width and height."""
    width, height = display.fitted(short_side)
    rgb = as_plain(with_known_matrix(frame)).reformat(
        width=width, height=height, format="rgb24", interpolation="BICUBIC", threads=1
    )
    return np.ascontiguousarray(display.orientation.show(np.asarray(rgb.to_ndarray(), np.uint8)))
