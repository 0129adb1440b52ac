"""Decodes the frames asked for, and no more, to uint8 RGB.

Only the groups of pictures that hold a wanted frame are decoded, and only what lies in a wanted box is converted.
Shapes: T frames, H height, W width, C = 3 (RGB).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from videomae.video.container import Source, VideoError, frames_of, opened, packets_of, rate_of, untimed

FrameHWC = npt.NDArray[np.uint8]
FramesTHWC = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video holds: `frames` pictures of `width` x `height` pixels at `fps` frames a second."""

    frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def probe(source: Source) -> VideoInfo:
    """Count the frames and read the size and rate, without decoding.

    Raises:
        VideoError: not a video, truncated, without frames, or larger than the limits.
    """
    with opened(source) as (container, stream):
        frames = sum(not packet.is_discard for packet in packets_of(container, stream))
        if not frames:
            raise VideoError("the video holds no frames")
        return VideoInfo(frames=frames, fps=float(rate_of(stream)), width=stream.width, height=stream.height)


def decode(source: Source, indices: Sequence[int] | npt.NDArray[np.int64]) -> FramesTHWC:
    """The frames at `indices` (any order, repeats allowed) as uint8 RGB, shape (len(indices), H, W, 3).

    Raises:
        VideoError: not a video, truncated, damaged, or an index outside of it.
    """
    return decode_boxes(source, indices, None)[0]


def decode_boxes(
    source: Source, indices: Sequence[int] | npt.NDArray[np.int64], boxes: Sequence[Box] | None
) -> list[FramesTHWC]:
    """As `decode`, but only what lies in each of `boxes`: several crops from one decoding, and no more is converted.

    One array (len(indices), box.height, box.width, 3) for every box; None stands for one box of the whole picture.
    """
    wanted = [int(index) for index in indices]
    with opened(source) as (container, stream):
        packets = list(packets_of(container, stream))
        total = sum(not packet.is_discard for packet in packets)
        if not wanted or min(wanted) < 0 or max(wanted) >= total:
            raise VideoError(f"asked for frames {wanted[:1]}..{wanted[-1:]} of a video of {total} frames")
        whole = Box(top=0, left=0, height=stream.height, width=stream.width)
        cuts = _Cuts(boxes or (whole,), whole)
        select = _select_by_counting if untimed(container) else _select
        found = {index: cuts(frame) for index, frame in select(stream, packets, set(wanted))}
    missing = sorted(set(wanted) - found.keys())
    if missing:
        raise VideoError(
            f"{len(missing)} of the frames asked for could not be decoded, the first is number {missing[0]}"
        )
    return [np.stack([found[index][number] for index in wanted]) for number in range(len(cuts.boxes))]


def decode_plainly(source: Source, indices: Sequence[int] | npt.NDArray[np.int64]) -> FramesTHWC:
    """As `decode`, by the simplest loop there is: everything from the start, wanted frames converted whole.

    The floor that benchmarks compare with. Raises VideoError.
    """
    wanted, last = {int(index) for index in indices}, int(max(indices))
    found: dict[int, FrameHWC] = {}
    with opened(source) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
            if number == last:
                break
    return np.stack([found[int(index)] for index in indices])


def iterate(source: Source) -> Iterator[FrameHWC]:
    """Every frame in order as uint8 RGB (H, W, 3), decoded lazily; the same errors as `decode`."""
    with opened(source) as (container, stream):
        whole = Box(top=0, left=0, height=stream.height, width=stream.width)
        cut = _Cut(whole, whole)
        for frame in frames_of(container, stream):
            yield cut(frame)


def _select(stream: VideoStream, packets: list[Packet], wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Decode what `wanted` needs and nothing more; yields (index in display order, frame)."""
    shown = [packet for packet in packets if not packet.is_discard]
    times = sorted(packet.pts for packet in shown if packet.pts is not None)
    if len(times) != len(shown) or len(set(times)) != len(times):
        yield from _select_by_counting(stream, packets, wanted)
        return
    index_of = {time: index for index, time in enumerate(times)}
    pending = {times[index] for index in wanted}
    for run in _runs(packets, pending):
        for packet in [*run, None]:
            for frame in stream.codec_context.decode(packet):
                if frame.pts in pending:
                    pending.discard(frame.pts)
                    yield index_of[frame.pts], frame
        stream.codec_context.flush_buffers()


def _runs(packets: list[Packet], pending: set[int]) -> Iterator[list[Packet]]:
    """Stretches of packets that start at a keyframe and end with the last wanted frame before a gap."""
    start, end = 0, -1  # the open stretch is packets[start:end + 1]
    keys: list[int] = [0]
    for place, packet in enumerate(packets):
        if packet.is_keyframe and place:
            keys.append(place)
        if packet.pts not in pending:
            continue
        key = keys[-1]
        leads = packet.pts is not None and (packets[key].pts or 0) > packet.pts
        if leads and len(keys) > 1:  # shown before its keyframe: it also needs the group before
            key = keys[-2]
        if end >= 0 and key > end:
            yield packets[start : end + 1]
            start = key
        elif end < 0:
            start = key
        end = place
    if end >= 0:
        yield packets[start : end + 1]


def _select_by_counting(
    stream: VideoStream, packets: list[Packet], wanted: set[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """For containers without usable time stamps: decode from the start and count."""
    count, last = 0, max(wanted)
    for packet in [*packets, None]:
        for frame in stream.codec_context.decode(packet):
            if count in wanted:
                yield count, frame
            count += 1
            if count > last:
                return


class _Cuts:
    """Converts the insides of several boxes: one by one, or where they overlap much, what encloses them once."""

    def __init__(self, boxes: Sequence[Box], whole: Box) -> None:
        self.boxes = boxes
        hull = _hull(boxes)
        together = len(boxes) > 1 and sum(box.height * box.width for box in boxes) > hull.height * hull.width
        self._cuts = [_Cut(box, whole) for box in ((hull,) if together else boxes)]
        self._slices = [
            (
                slice(box.top - hull.top, box.top - hull.top + box.height),
                slice(box.left - hull.left, box.left - hull.left + box.width),
            )
            for box in (boxes if together else ())
        ]

    def __call__(self, frame: VideoFrame) -> list[FrameHWC]:
        pictures = [cut(frame) for cut in self._cuts]
        return [pictures[0][inside] for inside in self._slices] or pictures


def _hull(boxes: Sequence[Box]) -> Box:
    """The smallest box around all."""
    top, left = min(box.top for box in boxes), min(box.left for box in boxes)
    bottom, right = max(box.top + box.height for box in boxes), max(box.left + box.width for box in boxes)
    return Box(top=top, left=left, height=bottom - top, width=right - left)


class _Cut:
    """Converts the inside of a box to RGB. The planes of yuv420p are cut first, on even lines and columns."""

    def __init__(self, box: Box, whole: Box) -> None:
        bottom, right = box.top + box.height, box.left + box.width
        if not (0 <= box.top < bottom <= whole.height and 0 <= box.left < right <= whole.width):
            raise VideoError(f"{box} does not lie in a picture of {whole.width}x{whole.height}")
        self._whole, self._all = whole, box == whole
        top, left = box.top // 2 * 2, box.left // 2 * 2
        self._rows, self._columns = slice(top, bottom + bottom % 2), slice(left, right + right % 2)
        self._fits = self._rows.stop <= whole.height and self._columns.stop <= whole.width
        self._inner = (slice(box.top - top, bottom - top), slice(box.left - left, right - left))
        self._outer = (slice(box.top, bottom), slice(box.left, right))
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> FrameHWC:
        plain = frame.format.name == "yuv420p" and (frame.width, frame.height) == (
            self._whole.width,
            self._whole.height,
        )
        if self._all or not plain or not self._fits:
            return self._rgb(frame, self._whole.width, self._whole.height)[self._outer]
        planes = (
            np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size) for plane in frame.planes
        )
        height, width = self._rows.stop - self._rows.start, self._columns.stop - self._columns.start
        packed = np.empty((height * 3 // 2, width), np.uint8)  # the planes one after the other, as av takes them
        chroma = packed[height:].reshape(2, height // 2, width // 2)
        for plane, target, scale in zip(planes, (packed[:height], *chroma), (1, 2, 2), strict=True):
            rows = slice(self._rows.start // scale, self._rows.stop // scale)
            target[...] = plane[rows, self._columns.start // scale : self._columns.stop // scale]
        inside = VideoFrame.from_ndarray(packed, format="yuv420p")
        inside.colorspace, inside.color_range = frame.colorspace, frame.color_range
        return self._rgb(inside, width, height)[self._inner]

    def _rgb(self, frame: VideoFrame, width: int, height: int) -> FrameHWC:
        picture = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        return np.asarray(picture.to_ndarray(), dtype=np.uint8)
