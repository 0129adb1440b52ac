"""Converts the insides of boxes to RGB while a video is decoded, and nothing around them.

Shapes: T frames, H height, W width, C = 3 (RGB).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

from videomae.data.video.container import VideoError

FrameHWC = npt.NDArray[np.uint8]
FramesTHWC = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Crops:
    """Gathers what lies in each box of the frames numbered in `wanted`, in their order; repeats are allowed.

    Raises:
        VideoError: a box that does not lie within `whole`.
    """

    def __init__(self, wanted: Sequence[int], boxes: Sequence[Box], whole: Box) -> None:
        self._places: dict[int, list[int]] = {}
        for place, index in enumerate(wanted):
            self._places.setdefault(index, []).append(place)
        self.missing = set(wanted)
        self.frames_BTHWC = [np.empty((len(wanted), box.height, box.width, 3), np.uint8) for box in boxes]
        hull = _hull(boxes)
        together = len(boxes) > 1 and sum(box.height * box.width for box in boxes) > hull.height * hull.width
        self._cuts = [Cut(box, whole) for box in ((hull,) if together else boxes)]
        self._slices = [
            (
                slice(box.top - hull.top, box.top - hull.top + box.height),
                slice(box.left - hull.left, box.left - hull.left + box.width),
            )
            for box in (boxes if together else ())
        ]

    def take(self, index: int, frame: VideoFrame) -> None:
        """Keep what is wanted of frame number `index`."""
        pictures = [cut(frame) for cut in self._cuts]
        if self._slices:  # the boxes overlap much: what encloses them was converted once
            pictures = [pictures[0][inside] for inside in self._slices]
        for frames_THWC, picture in zip(self.frames_BTHWC, pictures, strict=True):
            for place in self._places[index]:
                frames_THWC[place] = picture
        self.missing.discard(index)


def _hull(boxes: Sequence[Box]) -> Box:
    """The smallest box around all."""
    top, left = min(box.top for box in boxes), min(box.left for box in boxes)
    bottom, right = max(box.top + box.height for box in boxes), max(box.left + box.width for box in boxes)
    return Box(top=top, left=left, height=bottom - top, width=right - left)


class Cut:
    """Converts the inside of a box to RGB. The planes of yuv420p are cut first, on even lines and columns.

    A call returns a picture (H, W, 3) that may share memory with a frame of FFmpeg's.
    """

    def __init__(self, box: Box, whole: Box) -> None:
        bottom, right = box.top + box.height, box.left + box.width
        if not (0 <= box.top < bottom <= whole.height and 0 <= box.left < right <= whole.width):
            raise VideoError(f"{box} does not lie in a picture of {whole.width}x{whole.height}")
        self._whole, self._all = whole, box == whole
        top, left = box.top // 2 * 2, box.left // 2 * 2
        self._even = Box(top=top, left=left, height=bottom + bottom % 2 - top, width=right + right % 2 - left)
        self._fits = top + self._even.height <= whole.height and left + self._even.width <= whole.width
        self._inner = (slice(box.top - top, bottom - top), slice(box.left - left, right - left))
        self._outer = (slice(box.top, bottom), slice(box.left, right))
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> FrameHWC:
        whole, even = self._whole, self._even
        plain = frame.format.name == "yuv420p" and (frame.width, frame.height) == (whole.width, whole.height)
        if self._all or not plain or not self._fits:
            return self._rgb(frame, whole.width, whole.height)[self._outer]
        planes = tuple(_inside(plane, even, scale) for plane, scale in zip(frame.planes, (1, 2, 2), strict=True))
        inside = VideoFrame.from_dlpack(planes, format="yuv420p")  # views, nothing is copied
        inside.colorspace, inside.color_range = frame.colorspace, frame.color_range
        return self._rgb(inside, even.width, even.height)[self._inner]

    def _rgb(self, frame: VideoFrame, width: int, height: int) -> FrameHWC:
        picture = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        plane = picture.planes[0]
        return np.ndarray((height, width, 3), np.uint8, memoryview(plane), 0, (plane.line_size, 3, 1))


def _inside(plane: VideoPlane, box: Box, scale: int) -> npt.NDArray[np.uint8]:
    """The part of a plane that a box covers, the plane being `scale` times smaller than the picture: a view."""
    shape = (box.height // scale, box.width // scale)
    start = box.top // scale * plane.line_size + box.left // scale
    return np.ndarray(shape, np.uint8, memoryview(plane), start, (plane.line_size, 1))
